"""Setuid, setgid and sticky bits: saved, reported by recover, and set where the user says so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.losing import wipe
from tests.support.recovering import recovered_from
from tests.support.repositories import three_files
from tests.support.small import save
from tests.support.workspace import Workspace

BITS = {"a": 0o4755, "b": 0o2644, "new": 0o6755, "d": 0o1755, "fresh": 0o2755}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files; special bits on each kind of thing."""
    ws = three_files(tmp_path)
    ws.append("b", "edited\n")
    ws.write("new")
    ws.mkdir("fresh")
    for path, mode in BITS.items():
        os.chmod(ws.at(path), mode)
    return ws


def modes(ws: Workspace) -> dict[str, int]:
    return {path: stat.S_IMODE(os.lstat(ws.at(path)).st_mode) for path in BITS}


def lose(ws: Workspace) -> None:
    wipe(ws)
    for path in BITS:
        if os.path.lexists(ws.at(path)):
            ws.remove(path)
    wipe(ws)


def test_special_bits_stay_in_place(ws: Workspace) -> None:
    save(ws)
    answer = recovered_from(ws.recover())
    assert modes(ws) == BITS
    assert answer["left_out"] == []


def test_special_bits_are_reported_and_not_set(ws: Workspace) -> None:
    save(ws)
    lose(ws)
    run = ws.gitstate("recover")
    assert run.exit_status == 0
    assert {path: mode & 0o777 for path, mode in BITS.items()} == modes(ws)
    for path, word in {
        "a": "setuid",
        "b": "setgid",
        "new": "setuid and setgid",
        "d": "sticky",
        "fresh": "setgid",
    }.items():
        assert f"{path}: it was {word}" in run.stderr
    assert "everything is as it was saved" not in run.stderr


def test_special_bits_are_set_where_the_user_says_so(ws: Workspace) -> None:
    save(ws)
    lose(ws)
    answer = recovered_from(ws.recover("--special-bits"))
    assert modes(ws) == BITS
    assert answer["left_out"] == []


def test_printed_command_sets_special_bits_afterwards(ws: Workspace) -> None:
    save(ws)
    lose(ws)
    answer = recovered_from(ws.recover())
    assert {item["path"] for item in answer["left_out"]} == set(BITS)
    command = str(answer["left_out"][0]["reason"]).rpartition(": gitstate ")[2].split()
    assert ws.gitstate(*command).exit_status == 0
    assert modes(ws) == BITS


def test_file_that_was_kept_gets_no_special_bits(ws: Workspace) -> None:
    save(ws)
    lose(ws)
    ws.write("a", "another program\n", 0o755)
    recovered_from(ws.recover("--special-bits"))
    assert modes(ws)["a"] == 0o755


def test_checkpoint_notices_special_bits_alone(ws: Workspace) -> None:
    first = ws.gitstate("checkpoint", "--json").json
    assert ws.gitstate("checkpoint", "--json").json["result"] == "unchanged"
    os.chmod(ws.at("a"), 0o755)
    second = ws.gitstate("checkpoint", "--json").json
    assert second["result"] == "saved" and second["save_id"] != first["save_id"]
