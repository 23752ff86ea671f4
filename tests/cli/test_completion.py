"""Tab completes commands, names of saves, keys and remotes, for `gitstate` and for `git gitstate`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.cli.table import TABLE
from tests.support.workspace import Workspace, run_gitstate


def completed(ws: Workspace, path: Path, *words: str) -> list[str]:
    """What bash offers after these words; the last is the one that is typed."""
    function = "_git_gitstate" if words[0] == "git" else "_gitstate_completion gitstate"
    script = f"""
        eval "$(gitstate completion bash)"
        COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()
        {function}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=ws.path, env=env, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.split()


@pytest.fixture
def on_path(tmp_path: Path) -> Path:
    """A directory with a `gitstate` command."""
    directory = tmp_path / "on-path"
    directory.mkdir()
    command = directory / "gitstate"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gitstate "$@"\n')
    command.chmod(0o755)
    return directory


@pytest.fixture
def held(ws: Workspace) -> tuple[Workspace, str]:
    ws.append("a.txt")
    made: str = ws.gitstate("checkpoint", "--label", "start", "--json").json["save_id"]
    ws.git("remote", "add", "origin", "/nowhere")
    ws.gitstate("set", "colour=blue")
    return ws, made


@pytest.mark.sample(3)
@pytest.mark.parametrize("prefix", [("gitstate",), ("git", "gitstate"), ("git", "-C", ".", "gitstate")])
def test_tab_completes_names(held: tuple[Workspace, str], on_path: Path, prefix: tuple[str, ...]) -> None:
    ws, made = held
    assert completed(ws, on_path, *prefix, "rest") == ["restore"]
    for command in ("restore", "diff", "prune"):
        assert completed(ws, on_path, *prefix, command, "") == ["latest", "start", made]
    assert completed(ws, on_path, *prefix, "recover", "--save", "st") == ["start"]
    assert completed(ws, on_path, *prefix, "set", "ta") == ["task_id="]
    assert completed(ws, on_path, *prefix, "show", "col") == ["colour"]
    assert completed(ws, on_path, *prefix, "push", "") == ["origin"]


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "_git_gitstate"), ("zsh", "_git-gitstate"), ("fish", "--command git")]
)
def test_each_shell_completes_git_gitstate(shell: str, word: str) -> None:
    run = run_gitstate("completion", shell, cwd=Path("/"))
    assert run.exit_status == 0 and word in run.text


def test_summary_of_a_command_is_completed_whole() -> None:
    env = {"_GITSTATE_COMPLETE": "fish_complete", "COMP_WORDS": "gitstate ", "COMP_CWORD": ""}
    text = run_gitstate(cwd=Path("/"), env=env).text
    for entry in TABLE:
        assert not entry.group or " " in entry.name or f"{entry.name}\t{entry.summary}\n" in text, entry.name


def test_completion_outside_a_repository_offers_nothing(tmp_path: Path) -> None:
    env = {"_GITSTATE_COMPLETE": "bash_complete", "COMP_WORDS": "gitstate restore ", "COMP_CWORD": "2"}
    run = run_gitstate(cwd=tmp_path, env=env)
    assert (run.text.strip(), run.stderr) == ("", "")
