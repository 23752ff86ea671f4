"""`resume --unit` and `boot enable --resume`, with a real systemd user manager."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.conversation.talk import SESSION
from tests.hooks.stage import Stage
from tests.loops.interrupted import AGENT, interrupt, words
from tests.support.user_manager import in_user_manager, why_not_user_manager

REASON = why_not_user_manager()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

GITSTATE = f"{shlex.quote(sys.executable)} -m gitstate"
#: No unit of ours runs.
ENDED = "! systemctl --user list-units --plain --no-legend 'gitstate-*' | grep -q 'gitstate-.*running'"


@pytest.fixture
def killed(stage: Stage) -> Stage:
    """A workspace whose agent was killed; the agent knows its place where the environment is bare."""
    interrupt(stage)
    agent = stage.directory / "bin" / "claude"
    agent.write_text(AGENT.replace("$STAGE", str(stage.directory)))
    return stage


def run(stage: Stage, script: str, tmp_path: Path, **env: str) -> str:
    home = {**stage.ws.cli_env, **env}
    done = in_user_manager(f"cd {shlex.quote(str(stage.ws.path))}\n{script}", tmp_path, home)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_agent_works_again_as_a_unit(killed: Stage, tmp_path: Path) -> None:
    arguments = shlex.quote(str(killed.directory / "arguments"))
    said = run(killed, f"{GITSTATE} resume --unit 2>&1\npoll test -s {arguments}\npoll sh -c {ENDED!r}", tmp_path)
    (call,) = words(killed)
    assert "journalctl --user -u gitstate-" in said
    assert call[0] == "-p" and "T-9" in " ".join(call)
    assert json.loads((killed.ws.path / "active_state.json").read_text())["status"] == "finished"
    assert killed.pending() is None


def test_unit_that_is_stopped_saves(killed: Stage, tmp_path: Path) -> None:
    (killed.directory / "stay").touch()
    arguments = shlex.quote(str(killed.directory / "arguments"))
    stop = "systemctl --user stop 'gitstate-*'"
    run(killed, f"{GITSTATE} resume --unit\npoll test -s {arguments}\n{stop}\npoll sh -c {ENDED!r}", tmp_path)
    assert killed.pending() is not None and len(words(killed)) == 1
    state = json.loads((killed.ws.path / "active_state.json").read_text())
    assert (state["status"], state["reason"]["signal"]) == ("interrupted", signal.SIGTERM.name.removeprefix("SIG"))


def test_reboot_starts_the_agent_once(killed: Stage, tmp_path: Path) -> None:
    """The unit that `boot enable --resume` wrote, at two boots, with a PATH on which the agent is not."""
    arguments = shlex.quote(str(killed.directory / "arguments"))
    enable = f"{GITSTATE} boot enable --resume --scheduler systemd"
    started = "systemctl --user show -p ActiveState gitstate-recover.service | grep -q =active"
    boot = f"leave; manager; poll sh -c {started!r}"
    script = f"{enable}\n{boot}\npoll test -s {arguments}\npoll sh -c {ENDED!r}\n{boot}\npoll sh -c {ENDED!r}\n"
    run(killed, script, tmp_path, BARE_PATH="/usr/bin:/bin")
    (call,) = words(killed)
    assert "T-9" in " ".join(call) and "--session-id" in call, "a session that nobody keeps starts fresh"
    assert SESSION not in call
    assert killed.pending() is None


def test_agent_works_again_though_another_workspace_is_not_mounted(killed: Stage, tmp_path: Path) -> None:
    disk = shlex.quote(str(tmp_path / "disk"))
    unmounted = f"git init -q {disk}/ws; {GITSTATE} -C {disk}/ws register; mv {disk} {disk}.away; mkdir {disk}"
    enable = f"{GITSTATE} boot enable --resume --scheduler systemd"
    arguments = shlex.quote(str(killed.directory / "arguments"))
    waits = "systemctl --user show -p ExecMainStatus gitstate-recover.service | grep -q =75"
    script = (
        f"{unmounted}\n{enable}\nleave; manager\npoll test -s {arguments}\npoll sh -c {waits!r}\npoll sh -c {ENDED!r}"
    )
    run(killed, script, tmp_path)
    assert len(words(killed)) == 1
