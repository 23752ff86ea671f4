"""Many workspaces at once: one look at each, on every core, and no process for one in which nothing waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.system import forkpool
from gitstate.system.forkpool import LOST
from tests.fleet.crowd import counting_git, crowd
from tests.support.workspace import run_gitstate

MANY = 600


def test_items_of_every_lane_keep_their_order() -> None:
    counts: list[int] = []
    answers = forkpool.stream(range(1000), lambda item: item * 2, patience=60.0, lanes=3, done=counts.append)
    assert answers == [item * 2 for item in range(1000)]
    assert counts == sorted(counts) and counts[-1] == 1000


def test_each_lane_is_a_process_and_few_items_take_one() -> None:
    pids = forkpool.stream(range(600), lambda _: os.getpid(), patience=60.0, lanes=2)
    assert len(set(pids)) == 2 and os.getpid() not in pids
    few = forkpool.stream(range(20), lambda _: os.getpid(), patience=60.0, lanes=2)
    assert len(set(few)) == 1


@pytest.mark.parametrize("lanes", [1, 2])
def test_items_that_end_their_process_in_any_lane_are_lost_alone(lanes: int) -> None:
    def work(item: int) -> int:
        if item in (3, 4, 300, 511):
            os._exit(9)
        return item

    answers = forkpool.stream(range(512), work, patience=60.0, lanes=lanes)
    assert [number for number, answer in enumerate(answers) if answer is LOST] == [3, 4, 300, 511]
    assert all(answer == number for number, answer in enumerate(answers) if answer is not LOST)


def test_no_item_takes_no_process() -> None:
    assert forkpool.stream([], str, patience=1.0, lanes=2) == []


def test_workspaces_in_which_nothing_waits_start_no_process(tmp_path: Path) -> None:
    crowd(tmp_path, MANY)
    env, log = counting_git(tmp_path)
    for command in (("recover", "--all", "--json"), ("status", "--all", "--json")):
        log.write_text("")
        run = run_gitstate(*command, cwd=tmp_path, env=env)
        assert run.exit_status == 0 and len(run.json["workspaces"]) == MANY
        # Whether there is a repository here, and the list of version 0.1.
        assert len(log.read_text().splitlines()) <= 4
        assert run.stderr.count("\r") == 0, "a progress line where there is no terminal"
