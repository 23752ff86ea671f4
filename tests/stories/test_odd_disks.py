"""File systems that refuse what git does not need: a save and a recovery do without it, and are exact.

The real process refuses one call as such a file system does. Git runs unchanged.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recover.test_undo import files
from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

REFUSED = """\
import fcntl, shutil
def refuse(*args, **names):
    raise OSError({error}, os.strerror({error}))
{names} = refuse
"""

LARGER_LINKS = """\
links = os.link
def link(source, target, **names):
    if not os.path.basename(source).startswith(b"index."):
        return links(source, target, **names)
    with open(source, "rb") as old, open(target, "xb") as new:
        new.write(old.read() + bytes(50))
os.link = link
"""

#: The git directory on exFAT, the files on ext4.
GIT_DIRECTORY_ELSEWHERE = """\
import errno
modes, links, renames = os.fchmod, os.link, os.rename
def fchmod(fd, mode):
    if "/.git/gitstate/" not in os.readlink("/proc/self/fd/" + str(fd)):
        modes(fd, mode)
def across(move):
    def moved(source, target, *, dst_dir_fd=None, **names):
        if b"/.git/gitstate/" in os.fsencode(source) and dst_dir_fd is not None:
            raise OSError(errno.EXDEV, "another file system")
        move(source, target, dst_dir_fd=dst_dir_fd, **names)
    return moved
os.fchmod, os.link, os.rename = fchmod, across(links), across(renames)
"""

NO_LOCKS = """\
import errno, fcntl
locks = fcntl.flock
def flock(fd, operation):
    if "/.git/" in os.readlink(f"/proc/self/fd/{{}}".format(fd)):
        raise OSError(errno.{error}, "no locks here")
    locks(fd, operation)
fcntl.flock = flock
"""


def refused(error: str, *names: str) -> str:
    return REFUSED.format(error=f"__import__('errno').{error}", names=" = ".join(names))


HABITS = {
    **{f"no-hard-links-{error}": refused(error, "os.link") for error in ("EMLINK", "EACCES", "ENOSYS")},
    "no-fsync-EINVAL": refused("EINVAL", "os.fsync", "os.fdatasync"),
    "no-fsync-ENOTSUP": refused("ENOTSUP", "os.fsync", "os.fdatasync"),
    "links-of-another-size": LARGER_LINKS,
    "git-directory-elsewhere": GIT_DIRECTORY_ELSEWHERE,
    **{f"no-locks-{error}": NO_LOCKS.replace("{error}", error) for error in ("ENOLCK", "ENOSYS", "EOPNOTSUPP")},
}


#: As lowntfs-3g does with `ignore_case`.
LISTS_LOWER_CASE = """\
listdir = os.listdir
os.listdir = lambda path: [name.lower() for name in listdir(path)]
"""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = three_files(tmp_path)
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.append("a.txt", "unstaged\n")
    ws.write("deep/new", "new\n")
    return ws


@pytest.mark.parametrize("habit", HABITS)
def test_round_trip_where_a_call_is_refused(habit: str, ws: Workspace) -> None:
    base, before, status = ws.out("rev-parse", "HEAD"), fingerprint(ws.path), ws.status()
    save = patched(ws, HABITS[habit], "save")
    assert save.returncode == 0, save
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-qfdx")
    wiped = files(ws)
    recover = patched(ws, HABITS[habit], "recover")
    assert recover.returncode == 0, recover
    assert before.diff(fingerprint(ws.path)) == []
    assert ws.status() == status
    undo = patched(ws, HABITS[habit], "undo")
    assert undo.returncode == 0, undo
    assert files(ws) == wiped


def test_merge_is_saved_where_names_are_listed_in_lower_case(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    ws.git("checkout", "-q", "-b", "side")
    ws.write("a.txt", "side\n")
    ws.commit("side")
    ws.git("checkout", "-q", "-")
    ws.write("a.txt", "mine\n")
    ws.commit("mine")
    ws.fails("merge", "side")
    before = fingerprint(ws.path)
    assert "MERGE_HEAD" in before.operation
    save = patched(ws, LISTS_LOWER_CASE, "save")
    assert save.returncode == 0, save
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-qfdx")
    ws.recover()
    assert before.diff(fingerprint(ws.path)) == []


def test_lock_in_memory_keeps_others_away(ws: Workspace) -> None:
    """What stands for the lock is one file for all processes of this user."""
    held = HABITS["no-locks-ENOLCK"] + (
        "import subprocess\n"
        "from gitstate.git.opening import open_repository\n"
        "from gitstate.system.clock import Deadline\n"
        "from gitstate.workspace.ownership import locked_workspace\n"
        f"with locked_workspace(open_repository({os.fsencode(ws.path)!r}), Deadline(0)):\n"
        "    if 'inner' not in os.environ:\n"
        "        again = subprocess.run(sys.orig_argv, env={**os.environ, 'inner': '1'}, capture_output=True)\n"
        "        sys.exit(0 if b'TryAgain' in again.stderr else 1)\n"
    )
    run = patched(ws, held, "save")
    assert run.returncode == 0, run


#: Holds the lock of `LOCKED` until its input ends. What stands for locks is below `PLACES`.
HOLD = """
import fcntl, os, sys
from gitstate.system import locks
from gitstate.system.clock import Deadline
locks._MEMORY = tuple(os.fsencode(place) for place in sys.argv[2:])
def refuse(fd, operation, locks=fcntl.flock):
    if b"gitstate-locks-" not in os.fsencode(os.readlink(f"/proc/self/fd/{fd}")):
        raise OSError(37, "No locks available")
    locks(fd, operation)
fcntl.flock = refuse
fd = locks.lock(os.fsencode(sys.argv[1]), Deadline(0), "it")
print("held", flush=True)
sys.stdin.read()
"""


def hold(locked: Path, places: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, *map(os.fspath, (locked, places / "one", places / "other"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(run: subprocess.Popen[str]) -> str:
    """What a holder printed until its end, which its input's end brings about."""
    out, err = run.communicate(timeout=60)
    return out + err


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("one", "other"):
        (tmp_path / "places" / name).mkdir(parents=True)
    return tmp_path / "places"


def in_the_way(place: Path, what: str) -> None:
    path = place / f"gitstate-locks-{os.geteuid()}"
    if what == "file":
        path.touch()
    elif what == "link":
        (place / "elsewhere").mkdir()
        path.symlink_to("elsewhere")
    elif what == "open":
        path.mkdir()
        path.chmod(0o777)
    else:
        place.rmdir()


@pytest.mark.parametrize("what", ["file", "link", "open", "no place"])
def test_lock_in_memory_needs_one_place(what: str, tmp_path: Path, places: Path) -> None:
    """Another user can take a name in `/dev/shm` first."""
    in_the_way(places / "one", what)
    first = hold(tmp_path / "lock", places)
    assert first.stdout is not None and first.stdout.readline() == "held\n", ended(first)
    assert "TryAgain" in ended(hold(tmp_path / "lock", places))
    assert ended(first) == ""
    shutil.rmtree(next((places / "other").iterdir()))
    in_the_way(places / "other", what)
    refused = ended(hold(tmp_path / "lock", places))
    assert "held" not in refused and "no locks here" in refused.splitlines()[-1]
    assert not list(places.glob("*/elsewhere/*"))


@pytest.mark.parametrize("gone", ["one", "other"])
def test_lock_in_memory_holds_where_one_place_was_cleared(gone: str, tmp_path: Path, places: Path) -> None:
    """As systemd clears `/dev/shm` of a user who logs out, and `/tmp` of what is old."""
    first = hold(tmp_path / "lock", places)
    assert first.stdout is not None and first.stdout.readline() == "held\n", ended(first)
    shutil.rmtree(places / gone / f"gitstate-locks-{os.geteuid()}")
    assert "TryAgain" in ended(hold(tmp_path / "lock", places))
    first.kill()
    ended(first)
    # The kernel gave both back.
    assert ended(hold(tmp_path / "lock", places)) == "held\n"
