"""The wheel, built and installed as a user would: both commands start, and the data files are in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gitstate
from tests.support.environment import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout; isolated only where setuptools is missing."""
    top = tmp_path_factory.mktemp("wheel")
    source = top / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for name in ("bin", "gitstate", "hooks", "man"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-build-isolation"] if importlib.util.find_spec("wheel") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *offline, "-w", str(top), str(source)]
    subprocess.run(command, check=True, cwd=top)
    (built,) = top.glob("*.whl")
    return built


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel's commands on the PATH, and no other gitstate."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(target))
    monkeypatch.setenv("PATH", f"{target / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return target


def test_wheel_contains_the_data_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "gitstate/active_state.schema.json",
        "gitstate/py.typed",
        "gitstate/cli/main.py",
        "gitstate/cli/commands/demo.py",
    } <= names
    hooks = ("gitstate.bash", "claude-loop.sh", "kimi-loop.sh", "git/gitstate-hook")
    assert {f"gitstate/hooks/{name}" for name in hooks} <= names
    assert {f"gitstate/hooks/boot/{name}" for name in ("gitstate-recover.service", "crontab")} <= names
    distribution = f"gitstate_recovery-{gitstate.__version__}"
    assert f"{distribution}.data/data/share/man/man1/git-gitstate.1" in names
    places = {"gitstate", f"{distribution}.dist-info", f"{distribution}.data"}
    assert {name.split("/")[0] for name in names} == places


def test_wheel_prints_the_shell_library_and_the_loops(installed: Path, tmp_path: Path) -> None:
    command = 'eval "$(gitstate init bash)" && type -t gitstate_run'
    done = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
    assert done.stdout == "function\n"
    for name in ("claude-loop.sh", "kimi-loop.sh"):
        loop = str(installed / "gitstate" / "hooks" / name)
        assert subprocess.run([loop, "--help"], capture_output=True, encoding="utf-8", check=True).stdout


def test_both_commands_of_the_wheel_start(installed: Path, tmp_path: Path) -> None:
    for argv in (["gitstate", "--version"], ["git", "gitstate", "--version"], ["git-gitstate", "--version"]):
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
        assert gitstate.__version__ in done.stdout
