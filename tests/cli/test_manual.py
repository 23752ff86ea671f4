"""The manual page and shell completion are complete, valid, and found by man, git help and shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tests.support.skips import not_installed

PAGE = ROOT / "man" / "git-gitstate.1"


def gitstate(*args: str, **env: str) -> str:
    argv = [sys.executable, "-m", "gitstate", *args]
    return subprocess.run(
        argv, capture_output=True, encoding="utf-8", check=True, env={**os.environ, **env}, timeout=60
    ).stdout


def test_manual_prints_the_installed_page() -> None:
    assert PAGE.read_text() == gitstate("manual")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason=not_installed("mandoc"))
def test_manual_page_passes_mandoc_lint() -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "error", str(PAGE)], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason=not_installed("man"))
def test_git_help_finds_the_manual_page_of_a_virtual_environment(tmp_path: Path) -> None:
    """As in a virtual environment whose bin directory is on PATH: man looks in ../share/man of it."""
    pages = tmp_path / "share" / "man" / "man1"
    pages.mkdir(parents=True)
    for name in ("git-gitstate.1", "gitstate.1"):
        shutil.copy(ROOT / "man" / name, pages)
    program = tmp_path / "bin" / "git-gitstate"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PAGER": "cat", "MANPAGER": "cat"}
    for argv in (["git", "gitstate", "--help"], ["man", "gitstate"]):
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=environment, timeout=60)
        if "minimized" in done.stdout:
            pytest.skip("man is the stub of a minimized system: run unminimize")
        assert "gitstate recover" in done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_parses_its_completion_script(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(gitstate("completion", shell))
    assert "_GITSTATE_COMPLETE" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)


def test_bash_completes_commands_and_options() -> None:
    def complete(*words: str) -> set[str]:
        asked = {"_GITSTATE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words)}
        out = gitstate(COMP_CWORD=str(len(words) - 1), **asked)
        return {line.partition(",")[2] for line in out.splitlines()}

    assert {"recover", "register"} <= complete("gitstate", "re")
    assert "--dry-run" in complete("gitstate", "recover", "--d")
    assert complete("gitstate", "boot", "en") == {"enable"}
