"""Flags in the index, sparse checkouts, index formats."""

from __future__ import annotations

import os

from tests.states.merges import stop_merging
from tests.states.ordinary import DIRTY, dirty
from tests.states.registry import HERE, LOCAL, NO_PLAIN, Loss, operation, state
from tests.support.workspace import Workspace


@state(losses=NO_PLAIN, quick=NO_PLAIN, moves=None)
def assume_unchanged_hides_edits(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")
    ws.expect_flags("h", "a.txt", "b.txt")


@state(losses=NO_PLAIN, moves=None)
def assume_unchanged_hides_all_edits(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.append("a.txt", "hidden\n")
    ws.expect_exactly()


@state(losses=NO_PLAIN, moves=None)
def assume_unchanged_hides_deletion(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.remove("a.txt")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")


@state(losses=NO_PLAIN, moves=None)
def skip_worktree_hides_edits(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")
    ws.expect_flags("S", "a.txt", "b.txt")


@state(losses=NO_PLAIN, moves=None)
def skip_worktree_hides_deletion(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a.txt", "src/lib/util.py", "src/lib/deep/x.txt")
    ws.remove("a.txt")
    ws.remove("src/lib")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@state(losses=NO_PLAIN, moves=None)
def skip_worktree_on_staged_content(ws: Workspace) -> None:
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.git("update-index", "--skip-worktree", "--assume-unchanged", "a.txt")
    ws.git("update-index", "--skip-worktree", "a.txt")
    ws.append("a.txt", "hidden\n")
    ws.expect_exactly("M  a.txt")


@state(losses=NO_PLAIN, quick=NO_PLAIN)
def intent_to_add(ws: Workspace) -> None:
    ws.write("planned.txt")
    ws.write("fresh/planned.sh", "#!/bin/sh\n", 0o755)
    ws.write("empty-planned.txt", "")
    ws.git("add", "-N", "planned.txt", "fresh/planned.sh", "empty-planned.txt")
    ws.expect_exactly(" A planned.txt", " A fresh/planned.sh", " A empty-planned.txt")


@state(losses=NO_PLAIN)
def intent_to_add_beside_staged(ws: Workspace) -> None:
    ws.write("planned.txt")
    ws.write("gone-again.txt")
    ws.git("add", "-N", "planned.txt", "gone-again.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.remove("gone-again.txt")
    ws.write("untracked.txt")
    ws.expect_exactly(" A planned.txt", " D gone-again.txt", "M  a.txt", "?? untracked.txt")


@state(losses=NO_PLAIN, quick=HERE | {Loss.REMOVED}, linked=True)
def sparse_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "src/lib")
    ws.append("src/lib/util.py", "# more\n")
    ws.write("src/lib/new.py")
    ws.add("src/lib/new.py")
    ws.write("untracked.txt")
    assert not os.path.exists(ws.at("docs"))
    ws.expect_exactly(" M src/lib/util.py", "A  src/lib/new.py", "?? untracked.txt")


@state(losses=NO_PLAIN)
def sparse_no_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!/docs/", "!b.txt")
    ws.append("a.txt")
    ws.remove("c.txt")
    assert not os.path.exists(ws.at("b.txt"))
    ws.expect_exactly(" M a.txt", " D c.txt")


@state(losses=NO_PLAIN)
def sparse_index(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.append("src/lib/util.py", "# more\n")
    ws.append("a.txt")
    ws.git("add", "a.txt")
    ws.write("src/untracked.txt")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s")
    ws.expect_exactly(" M src/lib/util.py", "M  a.txt", "?? src/untracked.txt")


@state(losses=NO_PLAIN, quick=HERE | {Loss.REMOVED})
def sparse_index_with_hidden_files(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.git("update-index", "--skip-worktree", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s")
    ws.expect(" M c.txt")


@state(losses=NO_PLAIN, quick=HERE | {Loss.BASE})
def sparse_index_with_staged_files_outside(ws: Workspace) -> None:
    ws.append("docs/guide.md")
    ws.write("docs/other.md", "other\n")
    ws.commit()
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.git("reset", "-q", "--soft", "HEAD~1")
    ws.append("src/lib/util.py", "# more\n")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s", "docs")
    assert not os.path.exists(ws.at("docs"))
    ws.expect_exactly(" M src/lib/util.py", "M  docs/guide.md", "A  docs/other.md")


@state(losses=LOCAL - {Loss.PLAIN})
def sparse_index_that_expects_files_outside(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.config("sparse.expectFilesOutsideOfPatterns", "true")
    ws.write("docs/guide.md", "edited where git does not look\n")
    ws.write("docs/new.md")
    ws.append("src/lib/util.py", "# more\n")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s", "docs")
    ws.expect_exactly(" M src/lib/util.py", "?? docs/new.md")


@state(losses=NO_PLAIN)
def sparse_with_files_outside_of_the_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "src/lib")
    ws.write("docs/guide.md", "edited where nothing should be\n")
    ws.write("docs/untracked.md")
    ws.expect_exactly(" M docs/guide.md", "?? docs/untracked.md")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED})
def sparse_merge_conflict(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!/docs/", "!/b.txt")
    stop_merging(ws, "side-deletes", "UD b.txt")


@state(losses=LOCAL, linked=True)
def index_v4(ws: Workspace) -> None:
    ws.config("index.version", "4")
    ws.git("update-index", "--index-version", "4")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.git_dir / "index").read_bytes()[7] == 4


@state(losses=LOCAL, quick=LOCAL)
def split_index(ws: Workspace) -> None:
    ws.config("core.splitIndex", "true")
    ws.git("update-index", "--split-index")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert list(ws.git_dir.glob("sharedindex.*"))


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED})
def split_index_merge_conflict(ws: Workspace) -> None:
    ws.config("core.splitIndex", "true")
    ws.git("update-index", "--split-index")
    stop_merging(ws, "side-content", "UU a.txt")
    assert list(ws.git_dir.glob("sharedindex.*"))


@state(losses=LOCAL)
def untracked_cache(ws: Workspace) -> None:
    ws.config("core.untrackedCache", "true")
    ws.git("update-index", "--force-untracked-cache")
    dirty(ws)
    ws.git("status")
    assert b"UNTR" in (ws.git_dir / "index").read_bytes()
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def feature_many_files(ws: Workspace) -> None:
    ws.config("feature.manyFiles", "true")
    ws.git("update-index", "--force-untracked-cache", "--index-version", "4")
    dirty(ws)
    ws.git("status")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, linked=True)
def core_fsmonitor_is_never_run(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.config("core.fsmonitor", ws.canary("fsmonitor"))


@state(losses=NO_PLAIN)
def sparse_patterns_not_applied_yet(ws: Workspace) -> None:
    """The next checkout removes what they exclude; the files are here, clean, edited and staged."""
    ws.config("core.sparseCheckout", "true")
    ws.append("d.txt")
    ws.add("d.txt")
    ws.write(".git/info/sparse-checkout", "/*\n!/docs/\n!/b.txt\n!/c.txt\n!/d.txt\n")
    ws.append("c.txt")
    assert os.path.exists(ws.at("docs/guide.md")) and os.path.exists(ws.at("b.txt"))
    ws.expect_exactly(" M c.txt", "M  d.txt")


@state(losses=NO_PLAIN)
def intent_to_add_of_an_empty_file(ws: Workspace) -> None:
    ws.write("nothing.txt", "")
    ws.git("add", "-N", "nothing.txt")
    ws.expect_exactly(" A nothing.txt")


@state(losses=NO_PLAIN)
def intent_to_add_beside_the_same_staged(ws: Workspace) -> None:
    ws.write("nothing.txt", "")
    ws.write("some.txt", "text\n")
    ws.git("add", "-N", "nothing.txt", "some.txt")
    ws.write("staged.txt", "")
    ws.add("staged.txt")
    ws.append("a.txt")
    ws.expect_exactly(" A nothing.txt", " A some.txt", "A  staged.txt", " M a.txt")
