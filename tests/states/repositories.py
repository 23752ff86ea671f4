"""HEAD, branches, object formats, kinds of repositories."""

from __future__ import annotations

import os
import shutil

from tests.states.merges import stop_merging
from tests.states.ordinary import DIRTY, dirty
from tests.states.registry import EVERYWHERE, HERE, LOCAL, NO_PLAIN, Loss, operation, state
from tests.support.workspace import Workspace, run_git


@state(template="empty", losses=NO_PLAIN, quick=NO_PLAIN)
def unborn_staged(ws: Workspace) -> None:
    ws.write("a.txt")
    ws.write("b.txt")
    ws.write("c/d.txt")
    ws.add("a.txt", "b.txt")
    ws.append("b.txt")
    ws.expect_exactly("A  a.txt", "AM b.txt", "?? c/d.txt")


@state(template="empty", losses=NO_PLAIN)
def unborn_untracked_only(ws: Workspace) -> None:
    ws.write("a.txt")
    ws.write("c/d.txt")
    assert not (ws.git_dir / "index").exists()
    ws.expect_exactly("?? a.txt", "?? c/d.txt")


@state(template="empty", losses=NO_PLAIN, moves=None)
def unborn_and_nothing_there(ws: Workspace) -> None:
    ws.expect_exactly()


@state(losses=HERE, moves=False)
def unborn_beside_a_tag_named_head(ws: Workspace) -> None:
    """Git takes the tag for HEAD; newer ones make none of that name."""
    ws.git("tag", "-a", "-m", "a tag", "other")
    ws.git("update-ref", "refs/tags/HEAD", "refs/tags/other")
    ws.git("tag", "-d", "other")
    ws.git("checkout", "-q", "--orphan", "new")
    ws.append("a.txt")
    ws.write("staged.txt")
    ws.add("staged.txt")
    ws.expect_exactly("A  staged.txt", " M a.txt")


@state(losses=NO_PLAIN, linked=True)
def orphan_branch(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "agent/new")
    ws.append("a.txt")
    ws.expect("AM a.txt", "A  b.txt")


@state(losses=NO_PLAIN, moves=False, quick=NO_PLAIN, linked=True)
def detached_dirty(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN, moves=False)
def detached_clean(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    ws.expect_exactly()


@state(losses=NO_PLAIN, moves=False)
def detached_at_a_commit_without_branch(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("only-here.txt")
    ws.commit("lonely")
    ws.append("only-here.txt")
    ws.expect_exactly(" M only-here.txt")


@state(template="sha256", quick=EVERYWHERE, linked=True)
def sha256(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-parse", "HEAD")) == 64


@operation(template="sha256")
def sha256_merge_conflict(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")


@state(template="sha256", losses=NO_PLAIN)
def sha256_index_v4_intent_to_add(ws: Workspace) -> None:
    ws.git("update-index", "--index-version", "4")
    ws.write("planned.txt")
    ws.git("add", "-N", "planned.txt")
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.append("b.txt")
    ws.expect_exactly(" A planned.txt", " M b.txt")


@state()
def packed_refs_and_objects(ws: Workspace) -> None:
    dirty(ws)
    ws.git("gc", "-q")
    assert (ws.common_dir / "packed-refs").exists()
    ws.expect_exactly(*DIRTY)


def clone_in_place(ws: Workspace, *args: str) -> None:
    """Replace the workspace by a clone of itself; the original stays outside."""
    origin = ws.outside / "origin"
    os.rename(ws.path, origin)
    run_git(origin, "config", "uploadpack.allowFilter", "true")
    run_git(ws.outside, "clone", "-q", *args, origin.as_uri() if "--shared" not in args else origin, ws.path)


@state(losses=LOCAL)
def shallow_clone(ws: Workspace) -> None:
    clone_in_place(ws, "--depth=1")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert ws.out("rev-parse", "--is-shallow-repository") == "true"


@state(losses=HERE)
def partial_clone(ws: Workspace) -> None:
    clone_in_place(ws, "--filter=blob:none")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert b"?" in ws.git("rev-list", "--objects", "--all", "--missing=print")


@state()
def alternates(ws: Workspace) -> None:
    clone_in_place(ws, "--shared")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.git_dir / "objects/info/alternates").exists()


@state(losses=NO_PLAIN)
def worktree_of_a_bare_repository(ws: Workspace) -> None:
    bare = ws.outside / "bare.git"
    run_git(ws.outside, "clone", "-q", "--bare", ws.path, bare)
    shutil.rmtree(ws.path)
    run_git(bare, "worktree", "add", "-q", ws.path, "agent/work")
    ws.main = bare
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN)
def workspace_is_a_submodule(ws: Workspace) -> None:
    parent = ws.outside / "parent"
    inner = ws.outside / "inner"
    os.rename(ws.path, inner)
    run_git(ws.outside, "init", "-q", parent)
    run_git(parent, "submodule", "--quiet", "add", "-b", "agent/work", inner, "sub")
    run_git(parent, "commit", "-q", "-m", "with a submodule")
    ws.path = parent / "sub"
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.path / ".git").is_file()


@state(losses=NO_PLAIN)
def inside_another_repository(ws: Workspace) -> None:
    parent = ws.outside / "parent"
    run_git(ws.outside, "init", "-q", parent)
    (parent / "theirs.txt").write_text("theirs\n")
    run_git(parent, "add", "theirs.txt")
    os.rename(ws.path, parent / "inner")
    ws.path = parent / "inner"
    ws.bystanders.append(parent)
    dirty(ws)
    ws.git("update-index", "-q", "--refresh", check=False)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def separate_git_directory(ws: Workspace) -> None:
    ws.git("init", "-q", f"--separate-git-dir={ws.outside / 'elsewhere.git'}")
    assert (ws.path / ".git").is_file()
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def core_worktree(ws: Workspace) -> None:
    ws.config("core.worktree", ws.path)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, linked=True)
def worktree_config(ws: Workspace) -> None:
    ws.config("extensions.worktreeConfig", "true")
    ws.git("config", "--worktree", "core.quotePath", "false")
    ws.git("config", "--worktree", "status.showUntrackedFiles", "no")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def beside_other_worktrees(ws: Workspace) -> None:
    """Another worktree is locked, one has vanished, one is in the middle of a merge."""
    for name in ("locked", "vanished", "merging"):
        ws.git("worktree", "add", "-q", "-b", name, ws.outside / name)
    ws.git("worktree", "lock", ws.outside / "locked")
    shutil.rmtree(ws.outside / "vanished")
    stop_merging(Workspace(ws.outside / "merging", ws.outside), "side-content", "UU a.txt")
    ws.bystanders += [ws.outside / "merging", ws.outside / "locked"]
    dirty(ws)
    ws.expect_exactly(*DIRTY)


def work_on_branch(ws: Workspace, name: str) -> None:
    ws.git("update-ref", f"refs/heads/{name}", "HEAD")
    ws.git("symbolic-ref", "HEAD", f"refs/heads/{name}")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(quick=EVERYWHERE, linked=True)
def branch_with_shell_characters(ws: Workspace) -> None:
    work_on_branch(ws, "agent/it's-$(touch${IFS}pwned)-`touch${IFS}pwned`;touch${IFS}pwned&\"|")
    ws.canaries += [ws.path / "pwned", ws.outside / "pwned"]


@state()
def branch_with_leading_dash(ws: Workspace) -> None:
    work_on_branch(ws, "-weird")


@state()
def branch_with_unicode(ws: Workspace) -> None:
    work_on_branch(ws, "agent/\u00fcml\u00e4ut-\u6f22\u5b57-\U0001f525")


@state()
def branch_that_is_not_utf8(ws: Workspace) -> None:
    work_on_branch(ws, os.fsdecode(b"agent/caf\xe9"))


@state()
def branch_with_a_long_name(ws: Workspace) -> None:
    work_on_branch(ws, "agent/" + "x" * 200 + "/" + "y" * 200)


@state(losses=LOCAL, linked=True)
def branch_called_head(ws: Workspace) -> None:
    """Git's own clone of such a repository is broken: its refs/remotes/origin/HEAD points to itself."""
    ws.git("update-ref", "refs/tags/HEAD", "base")
    work_on_branch(ws, "HEAD")


@state(losses=LOCAL, moves=None)
def branch_is_a_symbolic_ref(ws: Workspace) -> None:
    ws.git("update-ref", "refs/heads/real", "HEAD")
    ws.git("symbolic-ref", "refs/heads/agent/work", "refs/heads/real")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, moves=False)
def branch_is_a_symbolic_ref_to_one_of_another_worktree(ws: Workspace) -> None:
    ws.git("update-ref", "refs/heads/real", "HEAD")
    ws.git("worktree", "add", "-q", ws.outside / "other", "real")
    ws.bystanders.append(ws.outside / "other")
    ws.git("symbolic-ref", "refs/heads/agent/work", "refs/heads/real")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(linked=True)
def branch_name_is_ambiguous(ws: Workspace) -> None:
    for name in ("refs/tags/agent/work", "refs/agent/work", "refs/heads/heads/agent/work", "refs/remotes/agent/work"):
        ws.git("update-ref", name, "base")
    ws.write("agent/work", "a file of that name\n")
    dirty(ws)
    ws.expect_exactly(*DIRTY, "?? agent/work")


@state()
def empty_commit_on_top(ws: Workspace) -> None:
    ws.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state()
def merge_commit_on_top(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-edit", "--no-gpg-sign", "calm", "calm2")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-list", "--parents", "-1", "HEAD").split()) == 4


@state()
def only_a_root_commit(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "agent/lonely")
    ws.git("commit", "-q", "-m", "root")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-list", "HEAD").split()) == 1


@state(losses=LOCAL)
def branch_has_an_upstream(ws: Workspace) -> None:
    clone_in_place(ws)
    ws.config("push.default", "upstream")
    ws.config("pull.rebase", "true")
    ws.config("branch.autoSetupRebase", "always")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert ws.out("rev-parse", "--abbrev-ref", "@{upstream}") == "origin/agent/work"


@state(losses=LOCAL)
def reflogs_off(ws: Workspace) -> None:
    ws.config("core.logAllRefUpdates", "false")
    shutil.rmtree(ws.git_dir / "logs")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def reflogs_always(ws: Workspace) -> None:
    ws.config("core.logAllRefUpdates", "always")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, no_copies=True)
def replaced_objects(ws: Workspace) -> None:
    ws.git("replace", "--graft", "HEAD", "base")
    old, new = ws.out("rev-parse", "HEAD:docs/guide.md"), ws.out("rev-parse", "HEAD:README.md")
    ws.git("replace", old, new)
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("untracked.txt")
    ws.expect("M  a.txt", "?? untracked.txt")


@state(losses=LOCAL)
def grafts_file(ws: Workspace) -> None:
    (ws.git_dir / "info" / "grafts").write_text(f"{ws.out('rev-parse', 'HEAD')} {ws.out('rev-parse', 'base')}\n")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def notes_rewrite_ref(ws: Workspace) -> None:
    ws.git("notes", "add", "-m", "a note of ours", "HEAD")
    ws.git("notes", "--ref=gitstate-of-mine", "add", "-m", "another", "HEAD")
    ws.config("notes.rewriteRef", "refs/notes/*")
    ws.config("notes.displayRef", "refs/notes/*")
    ws.config("core.notesRef", "refs/notes/elsewhere")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN, moves=None)
def stale_ref_locks(ws: Workspace) -> None:
    """Left by something that was killed before the last reboot."""
    for name in ("refs/heads/agent/work.lock", "packed-refs.lock", "refs/notes/gitstate.lock"):
        lock = ws.common_dir / name
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        os.utime(lock, (1_000_000_000, 1_000_000_000))
        ws.stale_locks.append(lock)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN)
def stale_index_lock(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    lock = ws.git_dir / "index.lock"
    lock.touch()
    os.utime(lock, (1_000_000_000, 1_000_000_000))
    ws.stale_locks.append(lock)


@state(losses=NO_PLAIN, moves=None)
def held_index_lock(ws: Workspace) -> None:
    """A git process may be alive behind this one."""
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    (ws.git_dir / "index.lock").touch()
    ws.held_locks.append(ws.git_dir / "index.lock")


def _replace_head(ws: Workspace, *names: str) -> None:
    """For git HEAD is now a commit in which these files have one more line."""
    index = {"GIT_INDEX_FILE": str(ws.outside / "other-index")}
    ws.git("read-tree", "HEAD", env=index)
    for name in names:
        blob = ws.git("hash-object", "-w", "--stdin", stdin=ws.git("cat-file", "blob", f"HEAD:{name}") + b"other\n")
        ws.git("update-index", "--cacheinfo", f"100644,{blob.decode().strip()},{name}", env=index)
    tree = ws.git("write-tree", env=index).decode().strip()
    ws.git("replace", "HEAD", ws.out("commit-tree", "-p", "HEAD~1", "-m", "other", tree))


@state(losses=EVERYWHERE - {Loss.PLAIN}, status_says_more=True)
def head_replaced(ws: Workspace) -> None:
    """Files are as the real HEAD has them, and so is the index; two were edited."""
    _replace_head(ws, "a.txt", "b.txt", "docs/guide.md")
    ws.append("b.txt", "edited\n")
    ws.append("c.txt", "edited\n")
    ws.write("new.txt")
    assert {b"M  docs/guide.md", b"M  a.txt", b"MM b.txt", b" M c.txt"} <= ws.status()


@state(losses=EVERYWHERE - {Loss.PLAIN}, status_says_more=True)
def head_replaced_and_checked_out(ws: Workspace) -> None:
    """The same, and files and index are as the replacement has them."""
    _replace_head(ws, "a.txt", "b.txt", "docs/guide.md")
    ws.git("reset", "-q", "--hard")
    ws.append("b.txt", "edited\n")
    ws.append("c.txt", "edited\n")
    ws.write("new.txt")
    ws.expect_exactly(" M b.txt", " M c.txt", "?? new.txt")
