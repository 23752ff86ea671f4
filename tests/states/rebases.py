"""Unfinished rebases, cherry-picks, reverts, mailboxes, bisections and stash pops."""

from __future__ import annotations

from tests.states.registry import HERE, Loss, operation
from tests.support.repositories import lines
from tests.support.workspace import Workspace


def stop_rebasing(ws: Workspace, *args: str, directory: str = "rebase-merge", editor: str = ":") -> None:
    ws.fails("rebase", "-q", *args, env={"GIT_SEQUENCE_EDITOR": editor})
    ws.expect_operation(directory)


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}, linked=True)
def rebase_conflict(ws: Workspace) -> None:
    stop_rebasing(ws, "--merge", "side-content")
    ws.expect_operation("REBASE_HEAD")
    ws.expect("UU a.txt")
    assert (ws.git_dir / "HEAD").read_text()[:4] != "ref:"


@operation(linked=True)
def rebase_conflict_apply_backend(ws: Workspace) -> None:
    stop_rebasing(ws, "--apply", "side-content", directory="rebase-apply")
    ws.expect("UU a.txt")


@operation()
def rebase_stopped_at_edit(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.expect_operation("rebase-merge/amend", "rebase-merge/interactive")
    ws.append("c.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("untracked.txt")
    ws.expect_exactly(" M c.txt", "M  a.txt", "?? untracked.txt")


@operation()
def rebase_stopped_at_edit_clean(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.expect_operation("rebase-merge/amend")
    ws.expect_exactly()


@operation()
def rebase_stopped_at_failing_exec(ws: Workspace) -> None:
    stop_rebasing(ws, "--exec", "false", "base")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation()
def rebase_stopped_at_squash(ws: Workspace) -> None:
    stop_rebasing(ws, "-i", "side-content", editor="sed -i '2s/^pick/squash/;1s/^pick/edit/'")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("commit", "-q", "--no-edit")
    ws.write("untracked.txt")
    ws.expect_operation("rebase-merge/git-rebase-todo")


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED})
def rebase_with_autostash(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    stop_rebasing(ws, "--autostash", "side-content")
    ws.expect_operation("rebase-merge/autostash")
    ws.expect("UU a.txt")
    assert not ws.refs("refs/stash")


@operation()
def rebase_with_autostash_apply_backend(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    stop_rebasing(ws, "--apply", "--autostash", "side-content", directory="rebase-apply")
    ws.expect_operation("rebase-apply/autostash")


@operation(linked=True)
def rebase_of_merges(ws: Workspace) -> None:
    """Labels of ``--rebase-merges`` live in refs/rewritten/, which each worktree has for itself."""
    ws.git("merge", "-q", "--no-edit", "--no-gpg-sign", "calm")
    stop_rebasing(ws, "--rebase-merges", "--exec", "test ! -e calm.txt", "side-adds")
    ws.expect_operation("rebase-merge")
    assert ws.refs("refs/rewritten")


@operation()
def rebase_of_detached_head(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    stop_rebasing(ws, "side-content")
    ws.expect("UU a.txt")


@operation()
def merge_within_rebase(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.fails("merge", "-q", "side-content")
    ws.expect_operation("rebase-merge", "MERGE_HEAD")
    ws.expect("UU a.txt")


@operation(linked=True)
def cherry_pick_conflict(ws: Workspace) -> None:
    ws.fails("cherry-pick", "side-content")
    ws.expect_operation("CHERRY_PICK_HEAD", "MERGE_MSG")
    ws.expect("UU a.txt")


@operation()
def cherry_pick_sequence_conflict(ws: Workspace) -> None:
    ws.fails("cherry-pick", "base..seq")
    ws.expect_operation("CHERRY_PICK_HEAD", "sequencer/todo")
    ws.expect("UU a.txt")


@operation()
def cherry_pick_sequence_between_picks(ws: Workspace) -> None:
    """The conflict was committed by hand: only sequencer/ tells that there is more to do."""
    ws.fails("cherry-pick", "base..seq")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("commit", "-q", "--no-edit", "--no-gpg-sign")
    ws.expect_operation("sequencer/todo")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation(moves=None)
def cherry_pick_without_commit(ws: Workspace) -> None:
    ws.git("cherry-pick", "--no-commit", "calm")
    ws.expect_exactly("A  calm.txt")


@operation()
def revert_conflict(ws: Workspace) -> None:
    ws.write("a.txt", "rewritten\n")
    ws.commit("rewritten")
    ws.fails("revert", "HEAD~3")
    ws.expect_operation("REVERT_HEAD", "MERGE_MSG")
    ws.expect("UU a.txt")


@operation()
def revert_sequence_conflict(ws: Workspace) -> None:
    ws.write("b.txt", "rewritten\n")
    ws.commit("rewritten")
    ws.fails("revert", "HEAD~3..HEAD~1")
    ws.expect_operation("REVERT_HEAD", "sequencer/todo")


def _mailbox(ws: Workspace) -> str:
    mailbox = ws.outside / "mailbox"
    mailbox.write_bytes(ws.git("format-patch", "--stdout", "base..seq"))
    return str(mailbox)


@operation()
def am_conflict(ws: Workspace) -> None:
    ws.fails("am", "-q", _mailbox(ws))
    ws.expect_operation("rebase-apply/applying")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation()
def am_three_way_conflict(ws: Workspace) -> None:
    ws.fails("am", "-q", "--3way", _mailbox(ws))
    ws.expect_operation("rebase-apply/applying")
    ws.expect("UU a.txt")


@operation(linked=True)
def bisect(ws: Workspace) -> None:
    ws.git("bisect", "start")
    ws.git("bisect", "bad", "HEAD")
    ws.git("bisect", "good", "base")
    ws.expect_operation("BISECT_LOG", "BISECT_START")
    assert len(ws.refs("refs/bisect")) == 2
    ws.expect_exactly()


@operation()
def bisect_with_work(ws: Workspace) -> None:
    ws.git("bisect", "start", "--term-new=fast", "--term-old=slow", "HEAD", "base")
    ws.append("c.txt")
    ws.write("untracked.txt")
    ws.append("d.txt")
    ws.add("d.txt")
    ws.expect_operation("BISECT_TERMS")
    ws.expect_exactly(" M c.txt", "?? untracked.txt", "M  d.txt")


@operation()
def bisect_not_yet_moving(ws: Workspace) -> None:
    """Started and told nothing: HEAD is still on the branch."""
    ws.git("bisect", "start")
    ws.write("untracked.txt")
    ws.expect_operation("BISECT_START")
    assert ws.out("symbolic-ref", "HEAD") == "refs/heads/agent/work"


@operation(moves=None, linked=True)
def stash_pop_conflict(ws: Workspace) -> None:
    """Unmerged entries without an operation."""
    ws.write("a.txt", "stashed\n")
    ws.git("stash", "push", "-q")
    ws.write("a.txt", "committed\n")
    ws.commit("in the way")
    ws.fails("stash", "pop", "-q")
    ws.expect("UU a.txt")
    assert not (ws.git_dir / "MERGE_HEAD").exists()


@operation(moves=None)
def checkout_merge_conflict(ws: Workspace) -> None:
    ws.write("a.txt", "a.txt\n" + lines(l5="my edit"))
    ws.git("checkout", "-q", "-m", "side-content")
    ws.expect_exactly("UU a.txt")


@operation(moves=None)
def unmerged_stages_in_odd_combinations(ws: Workspace) -> None:
    blobs = [ws.git("hash-object", "-w", "--stdin", stdin=text).strip().decode() for text in (b"1\n", b"2\n", b"3\n")]
    rows = [f"0 {'0' * 40}\t{name}\n" for name in ("a.txt", "b.txt", "c.txt")]
    for name, stages in (("a.txt", "1"), ("b.txt", "13"), ("c.txt", "23"), ("x.txt", "2"), ("y.txt", "3")):
        rows += [f"100755 {blobs[int(stage) - 1]} {stage}\t{name}\n" for stage in stages]
    ws.git("update-index", "--index-info", stdin="".join(rows).encode())
    ws.expect("DD a.txt", "DU b.txt", "AA c.txt", "AU x.txt", "UA y.txt")
