"""Many packs of checkpoints are folded by git, beside a run; what nobody holds any more stays in a pack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.objects.fold import MANY, fold_packs
from gitstate.objects.pack import PackWriter
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

PACKS = MANY + 5


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with many packs, of which no ref holds anything. Git collects garbage by itself in it."""
    ws = three_files(tmp_path)
    ws.config("gc.auto", "6700")
    for number in range(PACKS):
        writer = PackWriter(os.fsencode(ws.common_dir / "objects"), "sha1", "test")
        for item in range(3):
            writer.add("blob", b"%d %d\n" % (number, item))
        writer.finish()
        writer.release()
    return ws


def repository_of(ws: Workspace) -> Repository:
    return open_repository(os.fsencode(ws.path))


def packs(ws: Workspace) -> list[str]:
    return sorted(path.name for path in (ws.common_dir / "objects/pack").glob("*.pack"))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_packs_are_folded_and_no_object_becomes_a_file(ws: Workspace) -> None:
    assert fold_packs(repository_of(ws)) == PACKS + MANY
    wait_until(lambda: len(packs(ws)) < 5)
    wait_until(lambda: not (ws.common_dir / "gc.pid").exists())
    assert ws.out("count-objects").startswith("0 ")
    assert ws.git("cat-file", "blob", ws.out("rev-parse", ":a")) == ws.read("a")
    assert not (ws.common_dir / "gc.log").exists()


@pytest.mark.parametrize(("name", "value"), [("gc.auto", "0"), ("gc.autoPackLimit", "1000")])
def test_settings_of_the_user_decide(ws: Workspace, name: str, value: str) -> None:
    ws.config(name, value)
    before = packs(ws)
    assert fold_packs(repository_of(ws)) == PACKS + MANY
    # Git decides before it goes into the background.
    assert not (ws.common_dir / "gc.pid").exists() and packs(ws) == before


def test_git_is_not_asked_at_each_checkpoint(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.config("gc.auto", "0")
    repository = repository_of(ws)
    above = fold_packs(repository)
    monkeypatch.setenv("PATH", "/nowhere")
    assert fold_packs(repository, above) == above


def test_few_packs_are_left_alone(tmp_path: Path) -> None:
    ws = three_files(tmp_path)
    assert fold_packs(repository_of(ws), 7) == 0


def test_run_folds_packs_beside_its_agent(ws: Workspace) -> None:
    many = '[ "$(ls .git/objects/pack/*.pack | wc -l)" -gt 9 ]'
    agent = f"echo x >f; n=0; while {many} && [ $n -lt 600 ]; do n=$((n + 1)); sleep 0.1; done; [ $n -lt 600 ]"
    run = ws.gitstate("run", "--interval", "0.2", "--task-id", "T-1", "--", "sh", "-c", agent)
    assert run.exit_status == 0, run
