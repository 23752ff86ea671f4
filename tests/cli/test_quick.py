"""The quick way through the command line: its callers and its start-up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.environment import ROOT, hermetic_environment
from tests.support.patched import patched
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_save_succeeds_when_the_caller_ignores_sigchld(command: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    (ws.path / "new.txt").write_text("new\n")
    done = subprocess.run(
        [sys.executable, "-m", "gitstate", "-C", str(ws.path), command],
        env=hermetic_environment(Path(os.environ["HOME"])),
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.startswith(b"saved ")


def test_bytecode_is_cached_despite_pythondontwritebytecode(templates: Templates, tmp_path: Path) -> None:
    """Without the cache, every save compiles the whole package first."""
    ws = make(STATES["clean"], templates, tmp_path)
    package = ROOT / "gitstate"
    copy = tmp_path / "copy"
    shutil.copytree(package, copy / "gitstate", ignore=shutil.ignore_patterns("__pycache__"))
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"
    subprocess.run(
        [sys.executable, "-c", script, str(copy), "-C", str(ws.path), "checkpoint"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
    )
    assert list((copy / "gitstate" / "save" / "__pycache__").glob("save.*.pyc"))


INTERRUPTED = """\
import os, signal
import gitstate.cli.quick as quick
guarded = quick.guarded
def interrupted(*words):
    status = guarded(*words)
    os.kill(os.getpid(), signal.SIGINT)
    return status
quick.guarded = interrupted
"""


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_interrupt_ends_a_save_without_a_traceback(command: str, templates: Templates, tmp_path: Path) -> None:
    """The shell that waits for it learns of Ctrl-C, as of any program: its loop ends."""
    ws = make(STATES["clean"], templates, tmp_path)
    (ws.path / "new.txt").write_text("new\n")
    done = patched(ws, INTERRUPTED, command)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.startswith(b"saved ") and done.stderr.count(b"\n") == 1


def test_interrupt_while_it_starts_prints_nothing(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    patch = "import gitstate.bundle\ndef use(self):\n    raise KeyboardInterrupt\ngitstate.bundle.Bundle.use = use"
    done = patched(ws, patch, "status")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


#: Python can't load these: no descriptor is left, or the disk can't be read.
UNLOADABLE = "sys.modules.update(dict.fromkeys({names!r}))\n"


def test_module_that_can_not_be_loaded_is_one_line(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    ws.write("new.txt", "new\n")
    names = ["gitstate.save.protocol", "tempfile", "traceback"]
    done = patched(ws, UNLOADABLE.format(names=names), "save", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["exit_status"] == 1
    assert done.stderr.startswith(b"gitstate: a module could not be loaded: import of gitstate.save.protocol"), done
    assert done.stderr.endswith(b"; nothing was lost\n") and done.stderr.count(b"\n") == 1
    assert not (ws.git_dir / "gitstate" / "journal").exists()
    assert ws.save().json["result"] == "saved"


def test_bug_whose_log_can_not_be_written_is_one_line(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    bug = "import gitstate.save.save\ngitstate.save.save.save = lambda *_: 1 / 0\n"
    done = patched(ws, bug + UNLOADABLE.format(names=["tempfile"]), "save")
    assert done.returncode == 3, done
    assert done.stderr == b"gitstate: this is a bug in gitstate (ZeroDivisionError); no log of it could be written\n"


def bug_log(ws: Workspace, bug: str, logs: Path) -> str:
    """The name of the log of a bug, an expression that a save meets."""
    script = f"import tempfile\ntempfile.tempdir = {str(logs)!r}\nimport gitstate.save.save\n"
    done = patched(ws, f"{script}gitstate.save.save.save = lambda *_: {bug}\n", "save")
    assert done.returncode == 3, done
    path = Path(done.stderr.decode().rpartition(" ")[2].strip())
    assert path.parent == logs and "Traceback" in path.read_text()
    return path.name


def test_bug_that_comes_again_and_again_has_one_log(templates: Templates, tmp_path: Path) -> None:
    """A loop, or an agent's hooks, may meet it thousands of times."""
    ws = make(STATES["clean"], templates, tmp_path)
    logs = tmp_path / "logs"
    logs.mkdir()
    first = bug_log(ws, "1 / 0", logs)
    assert bug_log(ws, "1 / 0", logs) == first
    assert bug_log(ws, "[][1]", logs) != first
    assert len(os.listdir(logs)) == 2


@pytest.mark.parametrize("kind", ["link", "empty"])
def test_log_of_a_bug_is_written_over_nothing(kind: str, templates: Templates, tmp_path: Path) -> None:
    """Who shares the directory may know its name; and where the disk was full it is empty."""
    ws = make(STATES["clean"], templates, tmp_path)
    logs, target = tmp_path / "logs", tmp_path / "target"
    logs.mkdir()
    target.write_text("mine\n")
    first = logs / bug_log(ws, "1 / 0", logs)
    first.unlink()
    if kind == "link":
        first.symlink_to(target)
    else:
        first.touch()
    assert bug_log(ws, "1 / 0", logs) != first.name
    assert target.read_text() == "mine\n"


#: No descriptor is left for the directory of the saves that wait.
UNLISTED = """
import errno
listdir = os.listdir
def listed(path=".", *more):
    if b"gitstate/pending" in os.fsencode(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
    return listdir(path, *more)
os.listdir = listed
"""


def test_saves_that_can_not_be_listed_are_not_called_in_the_way(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    ws.write("new.txt", "new\n")
    assert ws.save().exit_status == 0
    done = patched(ws, UNLISTED, "recover")
    pending = os.fsencode(ws.git_dir / "refs/gitstate/pending")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"gitstate: %s/: Too many open files; nothing was lost\n" % pending
    assert ws.recover().exit_status == 0
