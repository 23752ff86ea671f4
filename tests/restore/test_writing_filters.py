"""Filters that write: one that fails, prints without end or never ends is told with what mends it."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest

from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

#: Programs that are no filter. The first runs on and is killed after `gitstate.filterTimeout`.
HANGS = "exec sleep 100000"
PRINTS = "exec yes"
FAILS = "exit 1"
#: What the blob of each filtered file holds. The filter writes the same in lower case.
BLOBS = {"one.x": b"ONE\n", "two.x": b"TWO\n"}


@pytest.fixture
def filtered(ws: Workspace) -> Workspace:
    """A workspace with a save, and a filter for `*.x` and one for `*.y`."""
    ws.config("filter.x.clean", "tr a-z A-Z")
    ws.config("filter.x.smudge", "tr A-Z a-z")
    ws.config("filter.y.clean", "tr a-z A-Z")
    ws.config("filter.y.smudge", "tr A-Z a-z")
    ws.write(".gitattributes", "*.x filter=x\n*.y filter=y\n")
    for name in ("one.x", "two.x", "one.y", "two.y", "plain.z"):
        ws.write(name, f"{name.partition('.')[0]}\n")
    ws.commit("filtered")
    ws.append("a.txt")
    return ws


def _break(ws: Workspace, step: str, program: str, required: str) -> None:
    """Remove files, and let their filter be no filter.

    Those of the filter that works stay where a second decides: a machine that stalls would end that one, too.
    """
    others = ("one.y", "two.y") if program == FAILS else ()
    for name in (*BLOBS, *others, "plain.z"):
        ws.remove(name)
    if program != FAILS:
        ws.config("gitstate.filterTimeout", "1")
    ws.config("filter.x.required", required)
    ws.config(f"filter.x.{step}", program)


def _check_told(ws: Workspace, answer: dict[str, Any]) -> None:
    """What the filter should have written is told, with the command that writes it once the filter works."""
    assert {name: ws.read(name) for name in BLOBS} == BLOBS
    assert [ws.read(name) for name in ("one.y", "two.y", "plain.z")] == [b"one\n", b"two\n", b"plain\n"]
    told = {item["path"]: item["reason"] for item in answer["left_out"]}
    assert told.keys() == BLOBS.keys()
    if "filter.x.process" in ws.out("config", "--list", "--name-only").split():
        ws.git("config", "--unset", "filter.x.process")
    ws.config("filter.x.smudge", "tr A-Z a-z")
    for reason in told.values():
        command = reason.partition("when it works: ")[2]
        subprocess.run(["sh", "-c", command], cwd="/", check=True)
    assert {name: ws.read(name) for name in BLOBS} == {name: text.lower() for name, text in BLOBS.items()}


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("step", "program", "required"),
    [
        ("smudge", FAILS, "false"),
        ("process", HANGS, "false"),
        pytest.param("smudge", HANGS, "false", marks=_slow),
        pytest.param("smudge", HANGS, "true", marks=_slow),
        pytest.param("smudge", PRINTS, "false", marks=_slow),
        pytest.param("smudge", PRINTS, "true", marks=_slow),
        pytest.param("smudge", FAILS, "true", marks=_slow),
        pytest.param("process", HANGS, "true", marks=_slow),
        pytest.param("process", FAILS, "false", marks=_slow),
        pytest.param("process", FAILS, "true", marks=_slow),
    ],
)
def test_what_a_filter_did_not_write_is_told(step: str, program: str, required: str, filtered: Workspace) -> None:
    saved_from(filtered.save())
    _break(filtered, step, program, required)
    _check_told(filtered, recovered_from(filtered.recover()))


@pytest.mark.slow
def test_filter_that_is_slow_and_ends_writes(filtered: Workspace) -> None:
    """The limit is for one file: each takes less, all of them more."""
    saved_from(filtered.save())
    _break(filtered, "smudge", "sleep 0.2; tr A-Z a-z", "false")
    filtered.config("gitstate.filterTimeout", "20")
    answer = recovered_from(filtered.recover())
    assert answer["left_out"] == []
    assert {name: filtered.read(name) for name in BLOBS} == {name: text.lower() for name, text in BLOBS.items()}


def test_new_worktree_with_a_filter_that_hangs(filtered: Workspace) -> None:
    ws = filtered
    saved_from(ws.save())
    _break(ws, "smudge", HANGS, "false")
    ws.git("-c", "filter.x.smudge=", "-c", "filter.x.required=false", "switch", "-q", "-C", "other", "HEAD~1")
    path = ws.outside / "again"
    answer = recovered_from(ws.recover("--into", str(path)))
    assert {item["path"] for item in answer["left_out"]} >= set(BLOBS)
    assert {name: (path / name).read_bytes() for name in BLOBS} == BLOBS
    again = Workspace(path, ws.outside)
    assert not (again.git_dir / "index.lock").exists()


@pytest.mark.slow
def test_large_file_without_a_filter_takes_longer_than_a_filter_may(filtered: Workspace) -> None:
    """It comes back whole, and no filter is told for it."""
    ws, size = filtered, 4 << 30
    ws.config("core.compression", "1")
    with open(ws.path / "large.bin", "wb") as file:
        file.truncate(size)
    ws.git("add", "large.bin")
    ws.git("commit", "-qm", "large")
    saved_from(ws.save())
    for name in ("large.bin", *BLOBS):
        ws.remove(name)
    ws.config("gitstate.filterTimeout", "1")
    answer = recovered_from(ws.recover())
    assert answer["left_out"] == []
    assert (ws.path / "large.bin").stat().st_size == size
    assert {name: ws.read(name) for name in BLOBS} == {name: text.lower() for name, text in BLOBS.items()}


@pytest.mark.slow
def test_new_worktree_whose_files_take_longer_than_one_may(filtered: Workspace) -> None:
    """The limit is for one file: git is not ended while one after the other comes, all in one directory."""
    ws = filtered
    for number in range(12):
        ws.write(f"{number}.x", f"{number} text\n")
    ws.commit("more")
    calls = ws.outside / "calls"
    ws.config("filter.x.smudge", f"echo %f >>{shlex.quote(str(calls))}; sleep 0.7; tr A-Z a-z")
    saved_from(ws.save())
    ws.config("gitstate.filterTimeout", "3")
    ws.git("-c", "filter.x.smudge=", "switch", "-q", "-C", "other", "HEAD~1")
    calls.unlink(missing_ok=True)
    path = ws.outside / "again"
    answer = recovered_from(ws.recover("--into", str(path)))
    assert answer["left_out"] == []
    assert (path / "2.x").read_bytes() == b"2 text\n"
    assert len(calls.read_text().splitlines()) == 14, "each file is converted once"


@pytest.mark.slow
def test_file_that_may_be_what_the_filter_writes_is_compared_once(filtered: Workspace) -> None:
    """Two files of the base, which a filter would have to be asked about: the second is not asked for."""
    ws = filtered
    ws.config("gitstate.filterTimeout", "1")
    asked = ws.outside / "asked"
    for name in ("one.x", "two.x"):
        ws.write(name, f"edited {name}\n")
    saved_from(ws.save())
    for name in ("one.x", "two.x"):
        ws.write(name, "neither\n")
    ws.config("filter.x.smudge", f"echo asked >>{shlex.quote(str(asked))}; {HANGS}")
    answer = recovered_from(ws.recover())
    assert sorted(item["path"] for item in answer["kept"]) == ["one.x", "two.x"] or set(answer["kept"]) == set(BLOBS)
    assert asked.read_text() == "asked\n"


@pytest.mark.slow
def test_verify_ends_where_a_filter_hangs(filtered: Workspace) -> None:
    ws = filtered
    saved_from(ws.save())
    _break(ws, "smudge", HANGS, "true")
    run = ws.gitstate("verify", "--json")
    assert run.exit_status in (0, 4), run
    assert run.json["workspaces"][0]["save_id"] is not None
