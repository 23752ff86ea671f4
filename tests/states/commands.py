"""What git's own commands leave on single paths, trees and patches."""

from __future__ import annotations

import os

from tests.states.merges import stop_merging
from tests.states.registry import LOCAL, NO_PLAIN, Loss, operation, state
from tests.support.repositories import lines
from tests.support.workspace import Workspace

#: One way of loss in a quick run; the others are marked slow.
ONE = {"quick": {Loss.BASE}, "moves": None}
STOPPED = {"quick": {Loss.STRIPPED}, "moves": None}


@state(**ONE)
def paths_of_another_commit(ws: Workspace) -> None:
    ws.git("checkout", "-q", "side-content", "--", "a.txt")
    ws.append("a.txt")
    ws.expect_exactly("MM a.txt")


@state(**ONE)
def restored_from_another_commit(ws: Workspace) -> None:
    ws.git("restore", "--source=base", "--worktree", "--", ".")
    ws.git("restore", "--source=base", "--staged", "--", "data.bin")
    ws.expect(" M a.txt", " D added.txt", "M  data.bin")


@state(**ONE)
def one_hunk_staged(ws: Workspace) -> None:
    ws.write("a.txt", "a.txt\n" + lines(l5="ours", l1="first", l19="last"))
    head, first, _ = ws.git("diff", "-U0", "a.txt").split(b"\n@@ ")
    ws.git("apply", "--cached", "--unidiff-zero", "-", stdin=head + b"\n@@ " + first + b"\n")
    ws.expect_exactly("MM a.txt")


@state(**ONE)
def directory_behind_a_symlink(ws: Workspace) -> None:
    """The tracked directory moved, and a symlink stands in its place."""
    os.rename(ws.at("src"), ws.at("moved-src"))
    ws.symlink("moved-src", "src")
    ws.write("moved-src/new.py")
    ws.expect(" D src/app.py", "?? src", "?? moved-src/new.py")


@state(**ONE)
def staged_directory_where_a_file_is_again(ws: Workspace) -> None:
    ws.remove("thing")
    ws.write("thing/a")
    ws.git("add", "-A")
    ws.remove("thing")
    ws.write("thing", "a file again\n")
    ws.expect("D  thing", "AD thing/a")


@state(losses=NO_PLAIN, quick={Loss.WIPED})
def orphan_branch_with_an_emptied_index(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "fresh")
    ws.git("rm", "-rqf", "--cached", ".")
    ws.expect("?? a.txt")


@state(**ONE)
def staged_modes_alone(ws: Workspace) -> None:
    ws.git("update-index", "--chmod=+x", "a.txt")
    ws.git("update-index", "--chmod=-x", "bin/run.sh")
    ws.expect_exactly("MM a.txt", "MM bin/run.sh")


@state(**ONE)
def index_of_another_tree(ws: Workspace) -> None:
    ws.git("read-tree", "side-directory")
    ws.expect("D  thing", "?? thing", "?? added.txt", "AD gone.txt")


@state(**ONE)
def subtree_staged_and_not_checked_out(ws: Workspace) -> None:
    ws.git("read-tree", "--prefix=sub/dir/", "side-adds")
    ws.expect("AD sub/dir/a.txt")


@operation(**STOPPED)
def tree_merge_in_the_index(ws: Workspace) -> None:
    ws.git("read-tree", "-m", "base", "HEAD", "side-content")
    ws.expect("UU a.txt")


@state(losses=NO_PLAIN, quick={Loss.BASE})
def intent_to_add_instead_of_a_tracked_file(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "b.txt")
    ws.git("add", "-N", "b.txt")
    ws.expect_exactly("DA b.txt")


@state(losses=NO_PLAIN, quick={Loss.BASE})
def intent_to_add_below_a_former_file(ws: Workspace) -> None:
    ws.remove("thing")
    ws.write("thing/a")
    ws.git("add", "-N", "thing/a")
    ws.expect_exactly("D  thing", " A thing/a")


@operation(quick={Loss.STRIPPED})
def intent_to_add_in_a_merge(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.write("planned.txt")
    ws.git("add", "-N", "planned.txt")
    ws.expect(" A planned.txt")


@state(losses=LOCAL - {Loss.PLAIN}, quick={Loss.BASE}, moves=None)
def sparse_files_moved_out_of_the_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "src")
    ws.git("mv", "--sparse", "src/app.py", "docs/app.py")
    assert not os.path.lexists(ws.at("src/app.py"))


@operation(**STOPPED)
def patch_with_a_conflict(ws: Workspace) -> None:
    patch = ws.git("diff", "--full-index", "base", "side-content")
    ws.git("apply", "--3way", "-", stdin=patch, check=False)
    ws.expect_exactly("UU a.txt")


@state(losses=NO_PLAIN, quick={Loss.BASE})
def patch_with_intents_to_add(ws: Workspace) -> None:
    ws.git("apply", "-N", "-", stdin=ws.git("diff", "base", "calm"))
    ws.expect(" A calm.txt")


@state(**ONE)
def patch_of_the_index_alone(ws: Workspace) -> None:
    ws.git("apply", "--cached", "-", stdin=ws.git("diff", "base", "calm"))
    ws.expect_exactly("AD calm.txt")


@operation(quick={Loss.STRIPPED})
def bisect_without_checkout(ws: Workspace) -> None:
    """The commit to test stands in BISECT_HEAD alone."""
    ws.git("bisect", "start", "--no-checkout", "HEAD", "base")
    ws.append("a.txt")
    ws.expect_operation("BISECT_HEAD")


@state(losses=NO_PLAIN | {Loss.STRIPPED}, quick={Loss.CLONED, Loss.REMOVED}, linked=True)
def merge_of_notes_with_a_conflict(ws: Workspace) -> None:
    """It concerns no file of the worktree: its own stand in the git directory alone."""
    for ref, text in (("commits", "ours"), ("theirs", "theirs")):
        ws.git("notes", "--ref", ref, "add", "-m", text)
    ws.fails("notes", "merge", "theirs")
    ws.append("a.txt")
    ws.expect_operation("NOTES_MERGE_REF", "NOTES_MERGE_PARTIAL", "NOTES_MERGE_WORKTREE")


@operation(quick={Loss.STRIPPED})
def rebase_that_updates_other_branches(ws: Workspace) -> None:
    ws.git("branch", "middle", "HEAD~1")
    ws.fails("rebase", "--update-refs", "side-content")
    ws.expect_operation("rebase-merge/update-refs")


@operation(quick={Loss.STRIPPED})
def cherry_pick_that_became_empty(ws: Workspace) -> None:
    ws.git("cherry-pick", "calm")
    ws.fails("cherry-pick", "calm")
    ws.expect_operation("CHERRY_PICK_HEAD")
    ws.expect_exactly()


@state(losses=LOCAL, quick={Loss.BASE}, moves=None)
def converted_file_whose_attributes_are_gone(ws: Workspace) -> None:
    """It was staged under attributes that nobody has staged, and that were deleted since."""
    ws.config("filter.strip.clean", "grep -v OUTPUT")
    ws.write(".gitattributes", "*.crlf text eol=crlf\n*.strip filter=strip\n*.id ident\n")
    ws.write("f.crlf", "a\r\n")
    ws.write("f.strip", "cell\nOUTPUT\n")
    ws.write("f.id", "$Id: 1 $\n")
    ws.add("f.crlf", "f.strip", "f.id")
    ws.remove(".gitattributes")
    for path in ("f.crlf", "f.strip", "f.id"):
        # Git compares their contents only where they may have changed since.
        os.utime(ws.at(path), (1_700_000_000, 1_700_000_000))
    ws.expect("AM f.crlf", "AM f.strip", "AM f.id")
