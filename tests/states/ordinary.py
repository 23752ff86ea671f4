"""Ordinary work: edits, deletions, renames, modes, untracked files, empty directories."""

from __future__ import annotations

import os

from tests.states.registry import EVERYWHERE, NO_PLAIN, Loss, state
from tests.support.workspace import Workspace


@state(losses=EVERYWHERE - {Loss.PLAIN}, moves=None, linked=True)
def clean(ws: Workspace) -> None:
    ws.expect_exactly()


@state(quick=EVERYWHERE)
def edited(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.append("src/lib/util.py", "# more\n")
    ws.expect_exactly(" M a.txt", " M src/lib/util.py")


@state(quick=EVERYWHERE)
def staged(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("src/new.py", "new\n")
    ws.add("a.txt", "src/new.py")
    ws.expect_exactly("M  a.txt", "A  src/new.py")


@state()
def staged_empty(ws: Workspace) -> None:
    """The first of what is staged has no bytes."""
    ws.write("0", "")
    ws.add("0")
    ws.expect_exactly("A  0")


@state(quick=EVERYWHERE)
def staged_then_edited(ws: Workspace) -> None:
    ws.append("a.txt", "staged\n")
    ws.write("new.txt", "staged\n")
    ws.add("a.txt", "new.txt")
    ws.append("a.txt", "not staged\n")
    ws.append("new.txt", "not staged\n")
    ws.expect_exactly("MM a.txt", "AM new.txt")


@state()
def staged_then_undone_on_disk(ws: Workspace) -> None:
    before = ws.read("a.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("a.txt", before)
    ws.expect_exactly("MM a.txt")
    assert not ws.git("diff", "HEAD", "--name-only")


@state()
def deleted(ws: Workspace) -> None:
    ws.remove("a.txt")
    ws.remove("src/lib")
    ws.expect_exactly(" D a.txt", " D src/lib/util.py", " D src/lib/deep/x.txt")


@state()
def staged_deleted(ws: Workspace) -> None:
    ws.git("rm", "-q", "a.txt", "src/lib/deep/x.txt")
    ws.expect_exactly("D  a.txt", "D  src/lib/deep/x.txt")


@state()
def staged_deleted_kept_on_disk(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "a.txt", "b.txt")
    ws.append("b.txt")
    ws.expect_exactly("D  a.txt", "D  b.txt", "?? a.txt", "?? b.txt")


@state()
def everything_deleted(ws: Workspace) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    assert all(record.startswith(b" D ") for record in ws.status())


@state()
def index_emptied(ws: Workspace) -> None:
    ws.git("rm", "-r", "-q", "--cached", ".")
    ws.expect("D  a.txt", "?? a.txt", "D  src/app.py", "?? src/app.py")


@state(losses=NO_PLAIN)
def index_missing(ws: Workspace) -> None:
    (ws.git_dir / "index").unlink()
    ws.expect("D  a.txt", "?? a.txt")


@state(quick=EVERYWHERE)
def renamed(ws: Workspace) -> None:
    ws.git("mv", "a.txt", "staged-rename.txt")
    ws.git("mv", "docs/guide.md", "staged-and-edited.md")
    ws.append("staged-and-edited.md")
    os.rename(ws.at("b.txt"), ws.at("unstaged-rename.txt"))
    ws.expect_exactly(
        "R  staged-rename.txt <- a.txt",
        "RM staged-and-edited.md <- docs/guide.md",
        " D b.txt",
        "?? unstaged-rename.txt",
    )


@state()
def renamed_in_a_circle(ws: Workspace) -> None:
    first, second = ws.read("a.txt"), ws.read("b.txt")
    ws.write("a.txt", second)
    ws.write("b.txt", first)
    ws.add("a.txt")
    ws.expect_exactly("M  a.txt", " M b.txt")


@state()
def staged_new_then_deleted(ws: Workspace) -> None:
    ws.write("new.txt")
    ws.write("fresh/new.txt")
    ws.add("new.txt", "fresh/new.txt")
    ws.remove("new.txt")
    ws.remove("fresh")
    ws.expect_exactly("AD new.txt", "AD fresh/new.txt")


@state()
def executable_bits(ws: Workspace) -> None:
    ws.chmod("a.txt", 0o755)
    ws.add("a.txt")
    ws.chmod("b.txt", 0o755)
    ws.chmod("bin/run.sh", 0o644)
    ws.chmod("c.txt", 0o755)
    ws.add("c.txt")
    ws.chmod("c.txt", 0o644)
    ws.git("update-index", "--chmod=+x", "d.txt")
    ws.expect_exactly("M  a.txt", " M b.txt", " M bin/run.sh", "MM c.txt", "MM d.txt")


def _modes(ws: Workspace, mode: int) -> None:
    """The mode on a file that changed, one that is staged, one that is untracked, and one that did not change."""
    ws.append("a.txt")
    ws.append("b.txt")
    ws.add("b.txt")
    ws.write("untracked.txt")
    ws.write("fresh/untracked.txt")
    for path in ("a.txt", "b.txt", "untracked.txt", "fresh/untracked.txt", "c.txt"):
        ws.chmod(path, mode)
    ws.expect(" M a.txt" if not mode & 0o100 else " M c.txt", "?? untracked.txt")


@state(quick=EVERYWHERE)
def mode_0600(ws: Workspace) -> None:
    _modes(ws, 0o600)


@state()
def mode_0700(ws: Workspace) -> None:
    _modes(ws, 0o700)


@state()
def mode_0444(ws: Workspace) -> None:
    _modes(ws, 0o444)


@state()
def mode_0664(ws: Workspace) -> None:
    _modes(ws, 0o664)


@state()
def mode_0666_and_0777(ws: Workspace) -> None:
    _modes(ws, 0o666)
    ws.write("script.sh", "#!/bin/sh\n", 0o777)


@state(losses=NO_PLAIN, moves=None)
def modes_are_all_that_changed(ws: Workspace) -> None:
    ws.chmod("a.txt", 0o600)
    ws.chmod("bin/run.sh", 0o700)
    ws.expect_exactly()


@state(quick=EVERYWHERE)
def untracked(ws: Workspace) -> None:
    ws.write("untracked.txt")
    ws.write("untracked.sh", "#!/bin/sh\n", 0o755)
    ws.write("fresh/deep/er/file.txt")
    ws.write("src/lib/beside.py")
    ws.expect_exactly("?? untracked.txt", "?? untracked.sh", "?? fresh/deep/er/file.txt", "?? src/lib/beside.py")


@state()
def untracked_with_nested_gitignore(ws: Workspace) -> None:
    ws.write("fresh/.gitignore", "*.tmp\n/cache/\n!keep.log\n")
    ws.write("fresh/file.txt")
    ws.write("fresh/keep.log")
    ws.write("fresh/drop.log")
    ws.write("fresh/x.tmp")
    ws.write("fresh/cache/big.txt")
    ws.expect_exactly("?? fresh/.gitignore", "?? fresh/file.txt", "?? fresh/keep.log")


@state(moves=None)
def untracked_directory_that_ignores_itself(ws: Workspace) -> None:
    ws.write(".venv/.gitignore", "*\n")
    ws.write(".venv/lib/x.py")
    ws.write("fresh.txt")
    ws.expect_exactly("?? fresh.txt")


@state(losses=EVERYWHERE - {Loss.PLAIN}, moves=None)
def empty_directories(ws: Workspace) -> None:
    ws.mkdir("hollow")
    ws.mkdir("hollower/a/b")
    ws.mkdir("src/lib/hollow")
    ws.mkdir("private", 0o700)
    ws.expect_exactly()


@state()
def empty_directories_beside_work(ws: Workspace) -> None:
    ws.write("fresh/file.txt")
    ws.mkdir("fresh/hollow/a")
    ws.mkdir("fresh/private", 0o700)
    ws.mkdir("docs/hollow")
    ws.remove("src/lib/util.py")
    ws.remove("src/lib/deep/x.txt")  # src/lib/deep stays, empty
    ws.expect_exactly("?? fresh/file.txt", " D src/lib/util.py", " D src/lib/deep/x.txt")


@state()
def directory_modes(ws: Workspace) -> None:
    ws.write("secrets/key.txt", "key\n", 0o600)
    ws.chmod("secrets", 0o700)
    ws.write("shared/file.txt")
    ws.chmod("shared", 0o775)
    ws.expect_exactly("?? secrets/key.txt", "?? shared/file.txt")


@state(losses=NO_PLAIN)
def directory_mode_of_tracked_files(ws: Workspace) -> None:
    ws.append("docs/guide.md")
    ws.chmod("docs", 0o700)
    ws.chmod("src/lib", 0o750)
    ws.expect_exactly(" M docs/guide.md")


@state()
def read_only_directory(ws: Workspace) -> None:
    ws.write("fresh/file.txt")
    ws.mkdir("fresh/hollow", 0o555)
    ws.chmod("fresh", 0o555)
    ws.expect_exactly("?? fresh/file.txt")


def dirty(ws: Workspace) -> None:
    """A bit of everything; what it looks like to ``git status`` stands in ``DIRTY``."""
    ws.append("a.txt", "staged\n")
    ws.write("new.txt", "new\n")
    ws.add("a.txt", "new.txt")
    ws.append("a.txt", "not staged\n")
    ws.append("b.txt")
    ws.remove("c.txt")
    ws.git("rm", "-q", "d.txt")
    ws.git("mv", "docs/guide.md", "docs/manual.md")
    ws.chmod("bin/run.sh", 0o644)
    ws.symlink("README.md", "link")
    ws.write("notes/todo.txt")
    ws.write("notes/secret.txt", "secret\n", 0o600)
    ws.mkdir("hollow/inner")


DIRTY = (
    "MM a.txt",
    "A  new.txt",
    " M b.txt",
    " D c.txt",
    "D  d.txt",
    "R  docs/manual.md <- docs/guide.md",
    " M bin/run.sh",
    " M link",
    "?? notes/todo.txt",
    "?? notes/secret.txt",
)


@state(quick=EVERYWHERE, linked=True)
def everything_at_once(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN)
def same_size_edit_in_the_same_instant(ws: Workspace) -> None:
    """Racy git: nothing but the content tells that this file was changed after it was staged."""
    ws.config("core.trustctime", "false")
    ws.write("a.txt", "staged\n")
    ws.add("a.txt")
    staged_at = os.stat(ws.at("a.txt")).st_mtime_ns
    with open(ws.at("a.txt"), "r+b") as file:
        file.write(b"edited")
    os.utime(ws.at("a.txt"), ns=(staged_at, staged_at))
    os.utime(ws.git_dir / "index", ns=(staged_at, staged_at))
    ws.expect_exactly("MM a.txt")


@state(losses=NO_PLAIN)
def times_in_the_future_and_the_past(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("future.txt")
    ws.write("past.txt")
    os.utime(ws.at("a.txt"), (4_000_000_000, 4_000_000_000))
    os.utime(ws.at("future.txt"), (4_100_000_000, 4_100_000_000))
    os.utime(ws.at("past.txt"), (0, 0))
    ws.expect_exactly(" M a.txt", "?? future.txt", "?? past.txt")


@state()
def hard_links(ws: Workspace) -> None:
    os.link(ws.at("a.txt"), ws.at("linked.txt"))
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt", "?? linked.txt")
