"""Unfinished merges."""

from __future__ import annotations

from tests.states.registry import HERE, Loss, operation
from tests.support.workspace import Workspace


def stop_merging(ws: Workspace, branch: str, *records: str) -> None:
    ws.fails("merge", "-q", branch)
    ws.expect_operation("MERGE_HEAD", "MERGE_MSG")
    ws.expect(*records)


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}, linked=True)
def merge_conflict(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")


@operation()
def merge_conflict_they_deleted(ws: Workspace) -> None:
    stop_merging(ws, "side-deletes", "UD b.txt")


@operation()
def merge_conflict_we_deleted(ws: Workspace) -> None:
    stop_merging(ws, "side-modifies", "DU gone.txt")


@operation()
def merge_conflict_both_added(ws: Workspace) -> None:
    stop_merging(ws, "side-adds", "AA added.txt")


@operation()
def merge_conflict_binary(ws: Workspace) -> None:
    stop_merging(ws, "side-binary", "UU data.bin")


@operation()
def merge_conflict_file_and_directory(ws: Workspace) -> None:
    stop_merging(ws, "side-directory", "A  thing/inner.txt", "AU thing~HEAD")


@operation()
def merge_conflict_both_renamed(ws: Workspace) -> None:
    stop_merging(ws, "side-renames", "DD moved.txt", "AU ours.txt", "UA theirs.txt")


@operation()
def merge_conflict_symlinks(ws: Workspace) -> None:
    stop_merging(ws, "side-links", "UU link")


@operation(linked=True)
def merge_conflict_partly_resolved(ws: Workspace) -> None:
    ws.git("checkout", "-q", "side-content")
    for branch in ("side-deletes", "side-adds", "side-binary"):
        ws.git("cherry-pick", "--no-gpg-sign", branch)
    ws.git("branch", "-q", "-f", "side-all")
    ws.git("checkout", "-q", "agent/work")
    stop_merging(ws, "side-all", "UU a.txt", "UD b.txt", "AA added.txt", "UU data.bin")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.append("a.txt", "and edited again\n")
    ws.write("added.txt", "resolved but not staged\n")
    ws.write("b.txt", "half way\n")
    ws.append("c.txt")
    ws.write("untracked.txt")
    ws.write("staged.txt")
    ws.add("staged.txt")
    ws.expect("MM a.txt", "AA added.txt", "UD b.txt", " M c.txt", "?? untracked.txt", "A  staged.txt")


@operation()
def merge_conflict_resolved_as_in_head(ws: Workspace) -> None:
    """Nothing differs from HEAD but what the index knows of the conflict."""
    stop_merging(ws, "side-content", "UU a.txt")
    ws.git("checkout", "-q", "--ours", "a.txt")
    ws.add("a.txt")
    ws.expect_exactly()


@operation()
def merge_conflict_deleted_on_disk(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.remove("a.txt")
    ws.expect("UU a.txt")


@operation()
def merge_conflict_diff3_style(ws: Workspace) -> None:
    ws.config("merge.conflictStyle", "diff3")
    stop_merging(ws, "side-content", "UU a.txt")
    assert b"|||||||" in ws.read("a.txt")


@operation(linked=True)
def merge_resolved_not_committed(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.expect_exactly("M  a.txt")


@operation()
def merge_without_commit(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-ff", "--no-commit", "calm")
    ws.append("calm.txt")
    ws.expect_operation("MERGE_HEAD", "MERGE_MODE")
    ws.expect_exactly("AM calm.txt")


@operation()
def merge_octopus_without_commit(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-commit", "calm", "calm2")
    assert len((ws.git_dir / "MERGE_HEAD").read_text().splitlines()) == 2
    ws.expect_exactly("A  calm.txt", "A  calm2.txt")


@operation()
def merge_message_edited(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    (ws.git_dir / "MERGE_MSG").write_text("My own words, \u00fcber alles\n\nand why.\n")


@operation(moves=None)
def merge_squashed(ws: Workspace) -> None:
    ws.git("merge", "-q", "--squash", "calm")
    ws.expect_operation("SQUASH_MSG")
    ws.expect_exactly("A  calm.txt")


@operation(moves=None)
def merge_squashed_with_conflict(ws: Workspace) -> None:
    ws.fails("merge", "-q", "--squash", "side-content")
    ws.expect_operation("SQUASH_MSG")
    ws.expect("UU a.txt")


@operation()
def merge_of_a_commit_without_branch(ws: Workspace) -> None:
    """What is merged is reachable from nowhere else."""
    ws.git("checkout", "-q", "--detach", "side-content")
    ws.write("only-here.txt")
    lonely = ws.commit("lonely")
    ws.git("checkout", "-q", "agent/work")
    ws.git("reflog", "expire", "--expire=now", "--all")
    stop_merging(ws, lonely, "UU a.txt", "A  only-here.txt")


@operation()
def merge_with_autostash(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    ws.fails("merge", "-q", "--autostash", "side-content")
    ws.expect_operation("MERGE_HEAD")
    ws.expect("UU a.txt")
