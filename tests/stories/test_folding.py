"""File systems that fold case: a file answers to each spelling of its name, and its directory lists one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.stories.test_conversions import LOSSES
from tests.support.agents import wait_until
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import initialized
from tests.support.saving import saved_from
from tests.support.skips import NO_MOUNT, why_not_program, why_not_root
from tests.support.workspace import Workspace, run_git


class Disk(NamedTuple):
    """A file system that folds case, and how it is made and mounted."""

    name: str
    programs: tuple[str, ...]
    make: tuple[str, ...]
    mount: tuple[str, ...]
    folder: tuple[str, ...] = ()
    """What makes a directory fold."""


DISKS = (
    Disk(
        "ext4",
        ("mkfs.ext4",),
        ("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8"),
        ("mount",),
        ("chattr", "+F"),
    ),
    Disk("exfat", ("mkfs.exfat", "mount.exfat-fuse"), ("mkfs.exfat",), ("mount.exfat-fuse",)),
)


def is_open(device: str) -> bool:
    """Whether a process has this device open."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        directory = f"/proc/{process}/fd"
        # A process ends, and closes what it had open, while it is looked at.
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{directory}/{name}") == device:
                        return True
    return False


class Mounted(NamedTuple):
    """A directory on a file system that folds case."""

    command: tuple[str, ...]
    place: Path

    @property
    def folding(self) -> Path:
        return self.place / "folding"

    def mount(self) -> bool:
        return not subprocess.run([*self.command, self.place], capture_output=True).returncode

    def unmount(self) -> None:
        """Until the program behind it has ended: it still writes to the disk when `umount` returns."""
        subprocess.run(["umount", self.place], check=True)
        wait_until(lambda: not is_open(self.command[-1]), "the disk is closed")

    def settle(self) -> None:
        """Mount again: for a second the kernel knows a file by a name that FUSE has told it, gone or not."""
        self.unmount()
        assert self.mount()


@pytest.fixture(scope="module", params=DISKS, ids=lambda disk: disk.name)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    kind: Disk = request.param
    reason = why_not_root() or next((why for name in kind.programs if (why := why_not_program(name))), None)
    if reason:
        pytest.skip(reason)
    top = tmp_path_factory.mktemp(kind.name)
    image, place = top / "image", top / "mounted"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run([*kind.make, image], check=True, capture_output=True)
    found = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, encoding="utf-8")
    if found.returncode:
        pytest.skip(NO_MOUNT)
    loop = found.stdout.strip()
    try:
        mounted = Mounted((*kind.mount, loop), place)
        if not mounted.mount():
            pytest.skip(f"this kernel does not mount {kind.name} with folded names")
        try:
            mounted.folding.mkdir()
            if kind.folder:
                subprocess.run([*kind.folder, mounted.folding], check=True)
            yield mounted
        finally:
            mounted.unmount()
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


@pytest.fixture
def ws(disk: Mounted) -> Workspace:
    top = disk.folding / f"{len(list(disk.folding.iterdir()))}"
    top.mkdir()
    ws = initialized(top)
    ws.write("a.txt", "a\nb\n")
    ws.write("b.txt", "b\n")
    ws.write("dir/one", "one\n")
    ws.write("dir/deep/two", "two\n")
    ws.write("\u00e9.txt", "accent\n")
    ws.commit("base")
    assert os.path.lexists(ws.at("A.TXT")), "this file system does not fold"
    disk.settle()
    return ws


def move(ws: Workspace, old: str, new: str) -> None:
    """Rename in two steps: not every file system lets a name become another of its own spellings."""
    os.rename(ws.at(old), ws.at("between"))
    os.rename(ws.at("between"), ws.at(new))


def move_staged(ws: Workspace, old: str, new: str) -> None:
    ws.git("mv", old, "between")
    ws.git("mv", "between", new)


def edited(ws: Workspace, path: str) -> None:
    ws.append(path, "edited\n")


def swap(ws: Workspace) -> None:
    move(ws, "a.txt", "x")
    move(ws, "b.txt", "A.TXT")
    move(ws, "x", "B.TXT")


CASES: dict[str, tuple[Callable[[Workspace], object], ...]] = {
    "file": (lambda ws: move(ws, "a.txt", "A.TXT"),),
    "file-edited": (lambda ws: move(ws, "a.txt", "A.TXT"), lambda ws: edited(ws, "A.TXT")),
    "file-staged": (lambda ws: move_staged(ws, "a.txt", "A.TXT"),),
    "file-staged-directly": (lambda ws: ws.git("mv", "a.txt", "A.TXT"),),
    "file-staged-edited": (lambda ws: move_staged(ws, "a.txt", "A.TXT"), lambda ws: edited(ws, "A.TXT")),
    "file-edited-staged": (
        lambda ws: move_staged(ws, "a.txt", "A.TXT"),
        lambda ws: edited(ws, "A.TXT"),
        lambda ws: ws.git("add", "A.TXT"),
    ),
    "directory": (lambda ws: move(ws, "dir", "DIR"),),
    "directory-edited": (lambda ws: move(ws, "dir", "DIR"), lambda ws: edited(ws, "DIR/one")),
    "directory-staged": (lambda ws: move_staged(ws, "dir", "DIR"),),
    "directory-staged-edited": (lambda ws: move_staged(ws, "dir", "DIR"), lambda ws: edited(ws, "DIR/deep/two")),
    "directory-with-new-file": (lambda ws: move(ws, "dir", "DIR"), lambda ws: ws.write("DIR/new", "new\n")),
    "directory-inside": (lambda ws: move(ws, "dir/deep", "dir/Deep"),),
    "accent": (lambda ws: move(ws, "\u00e9.txt", "\u00c9.txt"),),
    "pair": (lambda ws: move(ws, "a.txt", "A.TXT"), lambda ws: move(ws, "b.txt", "B.TXT")),
    "pair-half-staged": (lambda ws: move_staged(ws, "a.txt", "A.TXT"), lambda ws: move(ws, "b.txt", "B.TXT")),
    "swap": (swap,),
    "staged-new-renamed": (
        lambda ws: ws.write("n.txt"),
        lambda ws: ws.git("add", "n.txt"),
        lambda ws: move(ws, "n.txt", "N.TXT"),
    ),
    "untracked": (lambda ws: ws.write("U.TXT", "untracked\n"),),
    "deleted": (lambda ws: ws.remove("a.txt"),),
    "deleted-and-new": (lambda ws: ws.remove("a.txt"), lambda ws: ws.write("A.TXT", "another\n")),
}


def listed(ws: Workspace) -> set[str]:
    """The names in the worktree as directories list them, which git does not tell here."""
    top = Path(os.fsdecode(ws.path))
    names = {str(path.relative_to(top)) for path in top.rglob("*") if ".git" not in path.relative_to(top).parts}
    return names - {"active_state.json"}


def cases() -> list[Any]:
    """Each case with each way of loss; three of four are marked slow, for the disk is mounted five times in each."""
    found = []
    for number, case in enumerate(CASES):
        for turn, loss in enumerate(("in-place", "base", "tip", "files")):
            marks = [] if (number + turn) % 4 == 0 else [pytest.mark.slow]
            found.append(pytest.param(case, loss, id=f"{case}-{loss}", marks=marks))
    return found


@pytest.mark.sample(5)
@pytest.mark.parametrize(("case", "loss"), cases())
def test_renamed_file_comes_back(case: str, loss: str, ws: Workspace, disk: Mounted) -> None:
    base = ws.out("rev-parse", "HEAD")
    for step in CASES[case]:
        step(ws)
        disk.settle()
    before, names, status = fingerprint(ws.path), listed(ws), ws.status()
    saved_from(ws.save())
    disk.settle()
    LOSSES[loss](ws, base)
    disk.settle()
    answer = recovered_from(ws.recover())
    disk.settle()
    assert answer["kept"] == []
    assert listed(ws) == names
    after = fingerprint(ws.path)
    assert before.diff(after) == []
    assert ws.status() == status


def test_file_under_another_name_is_never_deleted(ws: Workspace, disk: Mounted) -> None:
    """It was written after the save: what the save deletes is not there, though its name leads to a file."""
    ws.remove("a.txt")
    saved_from(ws.save())
    disk.settle()
    ws.write("A.TXT", "a\nb\n")
    disk.settle()
    recovered_from(ws.recover())
    disk.settle()
    assert "A.TXT" in listed(ws)
    assert ws.read("A.TXT") == b"a\nb\n"


def test_names_that_one_file_answers_to_are_one_path(ws: Workspace) -> None:
    """A pair that only another file system can hold: one of the two is on the disk."""
    blob = ws.out("hash-object", "-w", "b.txt")
    ws.git("-c", "core.ignorecase=false", "update-index", "--add", "--cacheinfo", f"100644,{blob},A.TXT")
    ws.git("commit", "-q", "-m", "a pair")
    ws.append("b.txt")
    before, status = fingerprint(ws.path), ws.status()
    saved_from(ws.save())
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []
    assert ws.status() == status


def test_undo_where_all_files_have_the_same_permissions(ws: Workspace, disk: Mounted) -> None:
    """exFAT holds none. What a commit or a save says of them is then nothing that somebody changed."""
    base = ws.out("rev-parse", "HEAD")
    ws.append("a.txt", "edited\n")
    ws.write("new", "new\n")
    saved_from(ws.save())
    disk.settle()
    LOSSES["base"](ws, base)
    disk.settle()
    wiped = fingerprint(ws.path).files
    recovered_from(ws.recover())
    disk.settle()
    restored = fingerprint(ws.path).files
    assert restored != wiped
    for expected in (wiped, restored):
        run = ws.gitstate("undo", "--json")
        assert run.exit_status == 0, run
        assert run.json["workspaces"][0]["kept"] == []
        disk.settle()
        assert fingerprint(ws.path).files == expected


def test_save_of_another_file_system_comes_back_in_a_clone(ws: Workspace, disk: Mounted, tmp_path: Path) -> None:
    """Permissions that this one cannot hold are no change of somebody."""
    other = initialized(tmp_path)
    other.write("a.txt", "a\n")
    other.write("tool", "tool\n", mode=0o755)
    other.commit("base")
    other.append("a.txt", "edited\n")
    other.write("private", "private\n", mode=0o600)
    status = other.status()
    saved_from(other.save())
    clone = Workspace(ws.path.with_name("clone"), tmp_path)
    wanted = ("refs/gitstate/*:refs/gitstate/*", "refs/notes/gitstate:refs/notes/gitstate")
    run_git(tmp_path, "clone", "-q", "--no-local", other.path, clone.path)
    run_git(clone.path, "fetch", "-q", "origin", *wanted)
    disk.settle()
    answer = recovered_from(clone.recover())
    disk.settle()
    assert answer["kept"] == []
    assert clone.status() == status
    assert clone.read("private") == b"private\n"
