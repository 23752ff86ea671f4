"""For every cause of death of a loop or its agent, the work is saved and the next start resumes it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from tests.hooks.stage import TERM, Stage
from tests.support.agents import PATIENCE, wait_until
from tests.support.oracle import Fingerprint, fingerprint


@dataclass(frozen=True)
class Cause:
    """A cause of death: `kill` gets the stage and the loop on it; `status` is the loop's wait status."""

    kill: Callable[[Stage, subprocess.Popen[bytes]], None]
    status: int
    manner: str = "stay"
    reason: Mapping[str, object] = field(default_factory=dict)


def to_loop(number: int) -> Callable[[Stage, subprocess.Popen[bytes]], None]:
    return lambda stage, loop: loop.send_signal(number)


def to_group(number: int) -> Callable[[Stage, subprocess.Popen[bytes]], None]:
    return lambda stage, loop: os.killpg(loop.pid, number)


def twice(stage: Stage, loop: subprocess.Popen[bytes]) -> None:
    os.killpg(loop.pid, signal.SIGTERM)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(loop.pid, signal.SIGTERM)


def term_then_kill(stage: Stage, loop: subprocess.Popen[bytes]) -> None:
    """Who sent SIGTERM loses patience. The agent is deaf, so that the loop is still there."""
    loop.send_signal(signal.SIGTERM)
    wait_until(lambda: stage.pending() is not None, "the first save")
    os.killpg(loop.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        kill_agent(stage, loop)


def kill_agent(stage: Stage, loop: subprocess.Popen[bytes]) -> None:
    os.kill(agent_pid(stage), signal.SIGKILL)


def agent_pid(stage: Stage) -> int:
    return int((stage.directory / "agent").read_text())


def nobody(stage: Stage, loop: subprocess.Popen[bytes]) -> None:
    """The agent ends by itself."""


CAUSES = {
    "term": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, reason=TERM),
    "term-group": Cause(to_group(signal.SIGTERM), -signal.SIGTERM, reason=TERM),
    "int": Cause(to_loop(signal.SIGINT), -signal.SIGINT, reason={"signal": "INT"}),
    "int-group": Cause(to_group(signal.SIGINT), -signal.SIGINT, reason={"signal": "INT"}),
    "hup": Cause(to_loop(signal.SIGHUP), -signal.SIGHUP, reason={"signal": "HUP"}),
    "quit-group": Cause(to_group(signal.SIGQUIT), -signal.SIGQUIT, reason={"signal": "QUIT"}),
    "term-twice": Cause(twice, -signal.SIGTERM, reason=TERM),
    "term-then-kill": Cause(term_then_kill, -signal.SIGKILL, "deaf", reason=TERM),
    "deaf-agent": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, "deaf", reason=TERM),
    "grandchild": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, "parent", reason=TERM),
    "agent-killed": Cause(kill_agent, 128 + signal.SIGKILL),
    "loop-killed": Cause(to_loop(signal.SIGKILL), -signal.SIGKILL),
    "group-killed": Cause(to_group(signal.SIGKILL), -signal.SIGKILL),
    "agent-fails": Cause(nobody, 3, "fail", reason={"exit_code": 3}),
}

#: What an ordinary run tries for every way in; the rest is for the thorough one.
ALWAYS = ("term", "int-group", "group-killed", "agent-fails")

STORIES = [
    pytest.param(way, cause, id=f"{way}-{cause}", marks=() if way == "library" or cause in ALWAYS else pytest.mark.slow)
    for way in ("library", "sketch", "claude", "kimi")
    for cause in CAUSES
]


@pytest.mark.sample(5)
@pytest.mark.faults
@pytest.mark.parametrize(("way", "cause"), STORIES)
def test_next_start_resumes_after_every_cause_of_death(stage: Stage, way: str, cause: str) -> None:
    what = CAUSES[cause]
    # On a machine that stalls all of it is saved, too.
    stage.ws.config("gitstate.deadline", "60")
    stage.ws.config("gitstate.grace", "30" if what.kill is term_then_kill else "1")
    stage.manner(what.manner)
    # A ready loop would try again where its agent fails, or is killed.
    once = ["--retries", "0"] if way in ("claude", "kimi") and cause in ("agent-fails", "agent-killed") else []
    loop = stage.start([*stage.command(way), *once])
    stage.ready(loop)
    before = fingerprint(stage.ws.path)
    what.kill(stage, loop)
    assert loop.wait(PATIENCE) == what.status, stage.said()
    wait_until(lambda: stage.pending() is not None, "the save")
    wait_until(lambda: not stage.processes(), "everything has ended")

    context = stage.context()
    assert (context["task_id"], context["branch_name"]) == ("T-42", "agent/work")
    if way in ("library", "sketch"):
        assert (context["issue_number"], context["progress_stage"]) == (7, "coding")
    told = context["reason"]
    assert isinstance(told, dict)
    assert what.reason.items() <= told.items()
    assert stage.saves() == 1
    assert stage.ws.status() == set()

    ticks = stage.ws.read("ticks") if what.manner == "parent" else None
    stage.manner("look")
    again = stage.start(stage.command(way))
    stage.ready(again)
    assert any("T-42" in argument for argument in stage.arguments()), stage.arguments()
    assert stage.pending() is None
    if ticks is not None:
        assert stage.ws.read("ticks") == ticks
    assert difference(before, fingerprint(stage.ws.path)) == []


def difference(before: Fingerprint, after: Fingerprint) -> list[str]:
    """The differences, without the file that a process kept writing after `before` was taken."""
    return before.without([b"ticks"]).diff(after.without([b"ticks"]))


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "claude", "kimi"])
def test_clean_end_leaves_the_work_and_no_save(stage: Stage, way: str) -> None:
    stage.manner("done")
    stage.tasks.write_text("T-42\n")
    assert stage.start(stage.command(way)).wait(PATIENCE) == 0, stage.said()
    assert stage.pending() is None
    assert b"not staged" in stage.ws.read("work.txt")
    assert json.loads(stage.ws.gitstate("show", "--json").stdout)["context"]["status"] == "finished"
    wait_until(lambda: not stage.processes(), "everything has ended")
