"""Real limits: full and small file systems, no inodes, `ulimit`. No fault is injected.

The outcome is the same as for errors one by one: whole, honestly incomplete, or one clear line and a status; and when
there is room again, the next command brings everything back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.look import paths_of
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.skips import NO_MOUNT, not_installed, why_not_root
from tests.support.workspace import Run, Workspace

from .checks import check_integrity, is_honest, recover_to_the_end

Limit = Callable[[], None]


def build(ws: Workspace) -> None:
    ws.git("init", "-q", "-b", "main", ".")
    for number in range(20):
        ws.write(f"d{number % 4}/f{number}.txt", f"{number}\n" * 50)
    ws.write("kept.bin", bytes(range(256)) * 300)
    ws.commit("base")
    ws.write("d0/f0.txt", "staged\n")
    ws.git("add", "d0/f0.txt")
    ws.write("d0/f0.txt", "edited after that\n")
    ws.write("big.bin", os.urandom(300_000))
    for number in range(8):
        ws.write(f"new/n{number}.txt", f"new {number}\n")


def run_limited(ws: Workspace, limit: Limit | None, *args: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "gitstate", "-C", os.fspath(ws.path), *args, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=ws.outside,
        env=dict(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limit,
        timeout=180,
    )
    return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def workspace_in(directory: Path, outside: Path) -> tuple[Workspace, Fingerprint]:
    (directory / "repo").mkdir()
    outside.mkdir(exist_ok=True)
    ws = Workspace(directory / "repo", outside)
    build(ws)
    return ws, fingerprint(ws.path)


def whole_or_honest(ws: Workspace, expected: Fingerprint, run: Run) -> set[bytes]:
    """After a save under a limit; the answer is what it says that it left out."""
    is_honest(run)
    check_integrity(ws)
    if run.exit_status in (0, 4) and "error" not in run.json:
        return paths_of(item for item in run.json["left_out"] if item["lost"])
    assert not ws.refs("refs/gitstate/pending"), f"a marker, and no word of it: {run}"
    assert expected.diff(fingerprint(ws.path)) == []
    return set()


def comes_back(ws: Workspace, expected: Fingerprint, lost: set[bytes]) -> None:
    """After the limit is gone: save unless a save is pending, wipe, recover."""
    if not ws.refs("refs/gitstate/pending"):
        again = ws.save()
        assert again.exit_status == 0, str(again)
        lost = set()
    ws.git("reset", "-q", "--hard", "HEAD")
    ws.git("clean", "-ffdxq")
    if lost:
        ws.recover()
    else:
        recover_to_the_end(ws)
    assert expected.without(lost).diff(fingerprint(ws.path).without(lost)) == []
    check_integrity(ws)


# --------------------------------------------------------------------------------------------------------------------
# ulimit
# --------------------------------------------------------------------------------------------------------------------


def limited(kind: int, value: int) -> Limit:
    return lambda: resource.setrlimit(kind, (value, value))


LIMITS = {
    "files-8": limited(resource.RLIMIT_NOFILE, 8),
    "files-16": limited(resource.RLIMIT_NOFILE, 16),
    "files-24": limited(resource.RLIMIT_NOFILE, 24),
    "size-0": limited(resource.RLIMIT_FSIZE, 0),
    "size-4k": limited(resource.RLIMIT_FSIZE, 4096),
    "size-100k": limited(resource.RLIMIT_FSIZE, 100_000),
}


@pytest.mark.sample(3)
@pytest.mark.faults
@pytest.mark.parametrize("name", LIMITS)
def test_save_under_a_limit_is_whole_or_honest(name: str, tmp_path: Path) -> None:
    ws, expected = workspace_in(tmp_path, tmp_path / "outside")
    run = run_limited(ws, LIMITS[name], "save", "--task-id", "T-1", "--issue-number", "7")
    comes_back(ws, expected, whole_or_honest(ws, expected, run))


def wiped(ws: Workspace, to: str | None) -> None:
    ws.git("reset", "-q", "--hard", to or "HEAD")
    ws.git("clean", "-ffdxq")


def all_removed(ws: Workspace, to: str | None) -> None:
    """Only the repository is left: git writes the files that the save does not hold."""
    wiped(ws, to)
    for path in ws.path.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


LOSSES = {"wiped": wiped, "all removed": all_removed}


@pytest.mark.sample(3)
@pytest.mark.faults
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LIMITS)
def test_recover_under_a_limit_is_whole_or_honest(name: str, loss: str, tmp_path: Path) -> None:
    ws, expected = workspace_in(tmp_path, tmp_path / "outside")
    assert ws.save().exit_status == 0
    LOSSES[loss](ws, expected.commit)
    run = run_limited(ws, LIMITS[name], "recover")
    is_honest(run)
    check_integrity(ws)
    if run.exit_status:
        assert ws.refs("refs/gitstate/pending"), str(run)
        recover_to_the_end(ws)
    assert expected.diff(fingerprint(ws.path)) == []


@pytest.mark.faults
def test_unreadable_file_is_reported_as_skipped(tmp_path: Path) -> None:
    """An incomplete save exits 4 and names the file."""
    if reason := why_permissions_cannot_be_tested():
        pytest.skip(reason)
    ws, expected = workspace_in(tmp_path, tmp_path / "outside")
    ws.chmod("new/n1.txt", 0)
    ws.without_override = True
    run = ws.save()
    assert run.exit_status == 4, str(run)
    ws.without_override = False
    ws.chmod("new/n1.txt", 0o644)
    lost = whole_or_honest(ws, expected, run)
    assert lost == {b"new/n1.txt"}


@pytest.mark.faults
def test_save_that_may_start_no_process_fails_honestly(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if reason := why_not_root():
        pytest.skip(reason)
    if setpriv is None:
        pytest.skip(not_installed("setpriv"))
    ws, expected = workspace_in(tmp_path, tmp_path / "outside")
    words = [setpriv, "--reuid=54321", "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    program = [sys.executable, "-m", "gitstate", "-C", os.fspath(ws.path), "save", "--json"]
    allowed = subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, check=False)
    if allowed.returncode:
        message = allowed.stderr.decode("utf-8", "replace")[:100]
        pytest.skip(f"setpriv must be able to change the user: run outside of a user namespace ({message})")
    script = 'ulimit -u 0; exec "$@"'
    done = subprocess.run(
        [*words, "bash", "-c", script, "bash", *program],
        capture_output=True,
        cwd=ws.outside,
        env=dict(os.environ),
        timeout=180,
        check=False,
    )
    run = Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))
    assert run.exit_status == 1, str(run)
    is_honest(run)
    comes_back(ws, expected, set())


# --------------------------------------------------------------------------------------------------------------------
# Disks that are full
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(where: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own; skips where none may be mounted."""
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", os.fspath(where)], capture_output=True)
    if done.returncode:
        pytest.skip(f"{NO_MOUNT} ({done.stderr.decode('utf-8', 'replace').strip()[:100]})")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", os.fspath(where)], check=True)


def fill(directory: Path, leave: int) -> Path:
    """Use up all space but `leave` bytes."""
    filler = directory / "filler"
    free = os.statvfs(directory)
    with open(filler, "wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_bsize - leave)))
    return filler


def use_inodes(directory: Path, leave: int) -> Path:
    """Use up all inodes but `leave`."""
    filler = directory / "filler"
    filler.mkdir()
    for number in range(max(0, os.statvfs(directory).f_favail - leave)):
        (filler / str(number)).touch()
    return filler


def release(filler: Path) -> None:
    if filler.is_dir():
        shutil.rmtree(filler)
    else:
        filler.unlink()


#: What is left when the command starts: bytes, or inodes. Those that are marked are tried in an ordinary run.
SPACE = [0, 8 << 10, 64 << 10, 256 << 10, 400 << 10, 700 << 10]
INODES = [0, 1, 3, 6, 10, 16]
ORDINARY = {("space", 0), ("space", 256 << 10), ("space", 400 << 10), ("inodes", 3), ("inodes", 10)}
LEFT = [
    pytest.param(kind, left, marks=() if (kind, left) in ORDINARY else pytest.mark.slow)
    for kind, lefts in (("space", SPACE), ("inodes", INODES))
    for left in lefts
]


@pytest.mark.sample(3)
@pytest.mark.faults
@pytest.mark.parametrize("command", ["save", *LOSSES])
@pytest.mark.parametrize(("kind", "left"), LEFT)
def test_full_disk_leaves_the_workspace_whole_or_is_reported(
    command: str, kind: str, left: int, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=6m,nr_inodes=2000") as disk:
        ws, expected = workspace_in(disk, tmp_path / "outside")
        if command in LOSSES:
            assert ws.save().exit_status == 0
            LOSSES[command](ws, expected.commit)
        filler = fill(disk, left) if kind == "space" else use_inodes(disk, left)
        run = run_limited(ws, None, "recover" if command in LOSSES else command)
        if command == "save":
            lost = whole_or_honest(ws, expected, run)
            release(filler)
            comes_back(ws, expected, lost)
            return
        is_honest(run)
        if run.exit_status:
            assert ws.refs("refs/gitstate/pending"), str(run)
        release(filler)
        check_integrity(ws)
        if run.exit_status:
            recover_to_the_end(ws)
        assert expected.diff(fingerprint(ws.path)) == []


def test_recover_needs_no_room_for_what_it_replaces(tmp_path: Path) -> None:
    """All new files together do not fit beside the old ones: those give their room back one after the other."""
    with small_disk(tmp_path / "disk", "size=12m") as disk:
        (disk / "repo").mkdir()
        (tmp_path / "outside").mkdir()
        ws = Workspace(disk / "repo", tmp_path / "outside")
        ws.git("init", "-q", "-b", "main", ".")
        names = [f"f{number}" for number in range(8)]
        for _ in range(2):
            for name in names:
                ws.write(name, os.urandom(300_000))
            if not ws.refs("refs/heads"):
                ws.commit("base")
        expected = fingerprint(ws.path)
        assert ws.save().exit_status == 0
        ws.git("reset", "-q", "--hard", expected.commit or "HEAD")
        filler = fill(disk, 900 << 10)
        run = ws.recover()
        assert run.exit_status == 0, run
        release(filler)
        assert expected.diff(fingerprint(ws.path)) == []
