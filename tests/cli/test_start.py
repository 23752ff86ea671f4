"""`bin/gitstate` as pip installs it into a virtual environment: which Python it starts, and what it does not import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import gitstate
from tests.states import STATES, make
from tests.support.environment import ROOT
from tests.support.repositories import Templates
from tests.support.workspace import Workspace

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    (tmp_path / "work").mkdir()
    ws = make(STATES["clean"], templates, tmp_path / "work")
    ws.write("a", "edited\n")
    return ws


def environment(place: Path, *, editable: bool = False) -> Path:
    """Make a virtual environment as pip does, with the package (or the path of a checkout) and both commands."""
    venv.create(place, with_pip=False)
    packages = place / "lib" / PYTHON / "site-packages"
    if editable:
        (packages / f"__editable__.gitstate_recovery-{gitstate.__version__}.pth").write_text(str(ROOT))
    else:
        (packages / "gitstate").symlink_to(ROOT / "gitstate")
    # What is not Python's own is found by way of `site` alone.
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    shutil.copy(ROOT / "bin" / "gitstate", place / "bin")
    slow = place / "bin" / "git-gitstate"
    slow.write_text(f'#!/bin/sh\nexec "{place}/bin/python" -c "print(\'the slow way\')" "$@"\n')
    slow.chmod(0o755)
    return place / "bin" / "gitstate"


def run(*argv: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [os.fspath(word) for word in argv]
    # The environment is to find the package by itself.
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env={**bare, **env}, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done
    return done


@pytest.mark.parametrize("editable", [False, True], ids=["installed", "editable"])
def test_save_starts_without_site_re_and_click(ws: Workspace, tmp_path: Path, editable: bool) -> None:
    command = environment(tmp_path / "env", editable=editable)
    # The start is isolated: a variable of Python's own does not reach it.
    script = command.read_text()
    assert script.count(" -I -S -c ") == 1
    command.write_text(script.replace(" -I -S -c ", " -X importtime -I -S -c "))
    done = run(command, "save", "--task-id", """it's "a" $(task) *""", cwd=ws.path)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "gitstate.save.protocol" in loaded and not loaded & {"site", "re", "click", "encodings.idna"}
    assert json.loads(ws.out("notes", "--ref=gitstate", "show", "HEAD"))["task_id"] == """it's "a" $(task) *"""


@pytest.mark.parametrize("editable", [False, True], ids=["installed", "editable"])
def test_other_commands_import_installed_packages(ws: Workspace, tmp_path: Path, editable: bool) -> None:
    command = environment(tmp_path / "env", editable=editable)
    assert gitstate.__version__ in run(command, "--version", cwd=tmp_path).stdout
    run(command, "save", cwd=ws.path)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    assert "recovered" in run(command, "recover", cwd=ws.path).stderr
    assert (ws.path / "a").read_text() == "edited\n"


def test_start_script_works_through_symlinks_and_odd_paths(ws: Workspace, tmp_path: Path) -> None:
    command = environment(tmp_path / "a dir" / "it's $HOME")
    link = tmp_path / "bin" / "gitstate"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(command, link.parent))
    beside = tmp_path / "programs"
    beside.symlink_to(command.parent)
    for argv in ([command], [link], [beside / "gitstate"], [f"{beside}//gitstate"], ["gitstate"], ["sh", "gitstate"]):
        path = f"{link.parent}{os.pathsep}{os.environ['PATH']}"
        assert gitstate.__version__ in run(*argv, "--version", cwd=command.parent, PATH=path).stdout
        # What it ships for shells is looked for beside the package.
        assert "gitstate" in run(*argv, "init", "bash", cwd=command.parent, PATH=path).stdout


def test_modules_in_the_current_directory_are_not_imported(ws: Workspace, tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    for name in ("gitstate.py", "os.py", "site.py", "click.py"):
        ws.write(name, "raise SystemExit('taken in')\n")
    ws.write("git-gitstate", "#!/bin/sh\necho taken in\n")
    (ws.path / "git-gitstate").chmod(0o755)
    run(command, "save", cwd=ws.path)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    for argv in ([command], ["bash", "gitstate"]):
        assert gitstate.__version__ in run(*argv, "--version", cwd=ws.path, PATH=path).stdout


#: What Python imports at its start, what gitstate does, and gitstate itself.
NAMES = (
    "os.py",
    "site.py",
    "encodings.py",
    "click.py",
    "json.py",
    "socket.py",
    "gitstate/__init__.py",
    "sitecustomize.py",
)


def hostile(ws: Workspace) -> dict[str, str]:
    """Modules at the top of the workspace that leave a trace, and an environment that names them."""
    for name in NAMES:
        ws.write(name, f"open({str(ws.outside / 'taken-in')!r}, 'a').write({name!r})\n")
    return {"PYTHONPATH": f"{ws.path}", "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": f"{ws.path / 'os.py'}"}


def test_pythonhome_and_pythonpath_of_an_agent_do_not_reach_gitstate(ws: Workspace, tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    env = hostile(ws)
    for argv in (["save", "--task-id", "T"], ["recover"], ["checkpoint"], ["--version"], ["status"], ["doctor"]):
        run(command, *argv, cwd=ws.path, **env)
    assert not (ws.outside / "taken-in").exists()


def test_keeper_starts_isolated_and_the_agent_keeps_its_environment(ws: Workspace, tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    env = hostile(ws)
    agent = 'printf %s "$PYTHONPATH:$PYTHONHOME" >said; sleep 1; echo more >>a; kill -KILL $$'
    argv = [os.fspath(command), "run", "--task-id", "T", "--interval", "0.2", "--", "sh", "-c", agent]
    done = subprocess.run(argv, cwd=ws.path, env={**os.environ, **env}, capture_output=True, encoding="utf-8")
    assert done.returncode == 137 and "saved" in done.stderr, done
    assert ws.read("said").decode() == f"{env['PYTHONPATH']}:{env['PYTHONHOME']}"
    assert not (ws.outside / "taken-in").exists()


def test_pip_command_is_started_isolated_too(ws: Workspace, tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    (command.parent / PYTHON).rename(command.parent / "python-of-another-name")
    for name in ("python", "python3"):
        (command.parent / name).unlink()
    slow = command.parent / "git-gitstate"
    slow.write_text(f"#!{command.parent / 'python-of-another-name'}\nfrom gitstate.__main__ import main\nmain()\n")
    assert "gitstate" in run(command, "--version", cwd=ws.path, **hostile(ws)).stdout
    assert not (ws.outside / "taken-in").exists()


def test_start_script_without_python_falls_back_to_the_pip_command(tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    (command.parent / PYTHON).rename(command.parent / "python-of-another-name")
    for name in ("python", "python3"):
        (command.parent / name).unlink()
        (command.parent / name).symlink_to("python-of-another-name")
    assert run(command, "--version", cwd=tmp_path).stdout == "the slow way\n"


def test_start_script_leaves_the_choice_between_two_pythons_to_the_pip_command(tmp_path: Path) -> None:
    """`python3.x -m venv --upgrade` and a new installation leave both; the older one must not run."""
    command = environment(tmp_path / "env")
    (command.parent / "python3.99").symlink_to(PYTHON)
    shutil.copytree(tmp_path / "env" / "lib" / PYTHON, tmp_path / "env" / "lib" / "python3.99", symlinks=True)
    assert run(command, "--version", cwd=tmp_path).stdout == "the slow way\n"


def test_start_script_passes_the_exit_status_on(tmp_path: Path) -> None:
    command = environment(tmp_path / "env")
    done = subprocess.run([command, "save"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "not a git repository" in done.stderr
    assert subprocess.run([command, "frobnicate"], cwd=tmp_path, capture_output=True).returncode == 2
