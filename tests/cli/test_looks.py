"""`recover`, `status` and `--version` without click: what they load and start, and that click says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from gitstate import __version__
from gitstate.cli.main import group
from gitstate.cli.options import LOOKS, STYLES, parse
from tests.states import STATES, dirty, make
from tests.support.agents import hooks_are_done, wait_until
from tests.support.repositories import Templates
from tests.support.workspace import GITSTATE, Workspace, run_gitstate

#: A word that the quick parser leaves to click, and that means nothing to click.
CLICK = "--"


@pytest.mark.parametrize("command", LOOKS)
def test_the_quick_parser_knows_the_options_of_click(command: str) -> None:
    made = group.get_command(click.Context(group), command)
    assert made is not None
    options = {opt: item for item in made.params if isinstance(item, click.Option) for opt in item.opts}
    options.pop("--help", None)
    assert set(options) == set(LOOKS[command])
    for flag, (name, kind) in LOOKS[command].items():
        option = options[flag]
        assert option.name == ("json_here" if name == "json" else name)
        assert (kind == "flag") is option.is_flag and (kind == "many") is option.multiple
        if isinstance(option.type, click.Choice):
            assert kind == "style" and tuple(option.type.choices) == STYLES
        assert (kind == "seconds") is isinstance(option.type, click.FloatRange)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--nope"],
        ["status", "--help"],
        ["status", "--", "PATH"],
        ["status", "--root"],
        ["recover", "--wait", "soon"],
        ["recover", "--wait", "-1"],
        ["recover", "--format", "xml"],
        ["recover", "--dry-run=yes"],
        ["recover", "-h"],
    ],
)
def test_what_the_quick_parser_does_not_know_goes_to_click(words: list[str]) -> None:
    assert parse(words) is None


def test_paths_and_options_stand_in_any_order() -> None:
    quick = parse(["-C", "a", "recover", "b", "--dry-run", "c", "--root=d", "--root", "e", "--format", "shell"])
    assert quick is not None and (quick.command, quick.directory) == ("recover", "./a")
    expected: dict[str, Any] = {"paths": ["b", "c"], "dry_run": True, "roots": ["d", "e"], "style": "shell"}
    assert quick.given == expected


def clean(text: str) -> str:
    return re.sub(r'("timestamp": )"[^"]*"', r"\1…", text)


def assert_click_agrees(ws: Workspace, *words: str) -> None:
    quick, slow = (run_gitstate(*words, *more, cwd=ws.path) for more in ((), (CLICK,)))
    assert (quick.exit_status, quick.stderr) == (slow.exit_status, slow.stderr)
    assert clean(quick.stdout.decode()) == clean(slow.stdout.decode())


@pytest.mark.sample(3)
@pytest.mark.parametrize("state", ["clean", "waiting", "crashed", "no repository"])
@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["status", "--short"],
        ["status", "--short", "--json"],
        ["recover", "--dry-run"],
        ["recover", "--dry-run", "--json"],
        ["recover", "--dry-run", "--format", "shell"],
        ["recover", "--into", "x", "y"],
    ],
    ids=" ".join,
)
def test_click_says_the_same(state: str, words: list[str], templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    if state == "waiting":
        dirty(ws)
        ws.gitstate("save", "--task-id", "T-1")
    elif state == "crashed":
        ws.gitstate("begin", "task_id=T-2", "--owner-pid", str(ended_process()))
    elif state == "no repository":
        shutil.rmtree(ws.path / ".git")
    assert_click_agrees(ws, *words)


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_short_status_tells_state_and_task(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    (ws.path / "inside").mkdir()

    def short() -> str:
        run = run_gitstate("status", "--short", cwd=ws.path / "inside")
        assert run.exit_status == 0 and not run.stderr
        return run.stdout.decode()

    assert short() == ""
    ws.gitstate("begin", "task_id=T-1", "--owner-pid", str(os.getpid()))
    assert short() == "active T-1\n"
    dirty(ws)
    ws.gitstate("save")
    assert short() == "interrupted T-1\n"
    ws.gitstate("recover")
    assert short() == "recovered T-1\n"
    ws.gitstate("set", "task_id=\x1b[2J")
    assert "\x1b" not in short()


def test_short_status_is_silent_outside_a_repository(tmp_path: Path) -> None:
    run = run_gitstate("status", "--short", cwd=tmp_path)
    assert (run.exit_status, run.stdout, run.stderr) == (0, b"", "")


SLOW = {"git", "click", "gitdb", "typing", "subprocess", "re", "enum", "json", "contextlib", "signal", "dataclasses"}
#: How many modules of ours each loads where nothing is pending: each costs a fraction of a millisecond.
MOST_MODULES = {"--version": 8, "status --short": 38, "status": 40, "recover": 57}
#: How many processes each starts there. `recover` asks git for the settings, for HEAD and for its commit.
PROCESSES = {"--version": 0, "status --short": 0, "status": 0, "recover": 3}
#: And how many modules more where an agent is at work that calls its hook.
MORE_BESIDE_AN_AGENT = {"status": 3, "status --short": 3}


@pytest.mark.parametrize(
    ("command", "beside"),
    [*((command, "nobody") for command in MOST_MODULES), *((command, "an agent") for command in MORE_BESIDE_AN_AGENT)],
)
def test_a_look_loads_little_and_starts_few_processes(
    command: str, beside: str, templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    most = MOST_MODULES[command]
    if beside != "nobody":
        event = {"hook_event_name": "PostToolUse", "session_id": "s-1", "cwd": str(ws.path)}
        hook = [*GITSTATE, "hook", "claude"]
        subprocess.run(hook, input=json.dumps(event), encoding="utf-8", cwd=ws.path, check=True)
        wait_until(lambda: hooks_are_done(ws.git_dir), "what the hook has begun")
        most += MORE_BESIDE_AN_AGENT[command]
    git = shutil.which("git")
    wrapper, log = tmp_path / "bin" / "git", tmp_path / "started"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {git} "$@"\n')
    wrapper.chmod(0o755)
    log.touch()
    script = "import sys; from gitstate.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-S", "-X", "importtime", "-c", script, *command.split()],
        env={**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())},
        cwd=ws.path,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rsplit("|", 1)[1].strip() for line in lines}
    assert not {name for name in loaded if name.split(".")[0] in SLOW}
    ours = {name for name in loaded if name.split(".")[0] == "gitstate"}
    assert len(ours) <= most, sorted(ours)
    started = log.read_text(encoding="utf-8").splitlines()
    assert len(started) <= PROCESSES[command], started


def test_version_is_that_of_the_package() -> None:
    quick, slow = (run_gitstate(*words, cwd=Path.cwd()) for words in (["--version"], ["--version", "status"]))
    assert quick.stdout == slow.stdout == f"gitstate, version {__version__}\n".encode()


def test_json_of_an_error_is_one_object(tmp_path: Path) -> None:
    run = run_gitstate("recover", "--json", cwd=tmp_path)
    assert json.loads(run.stdout)["exit_status"] == run.exit_status != 0
