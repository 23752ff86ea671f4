"""Filters with odd names, and encodings of every kind: what git converts comes back byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from tests.states import Loss
from tests.support.look import porcelain
from tests.support.losing import lose
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

LOSSES = [Loss.IN_PLACE, Loss.WIPED, Loss.BASE, Loss.REMOVED]
NAMES = ["a=b", "a.b", 'a"b', "a'b", "a b", "a\\b", "a#b", "a;b", "-x", "$(x)", "a%s", "a[b]", "ä", ""]


def changes(ws: Workspace, encode: Any) -> None:
    """A file in each state: clean, edited, deleted, staged, staged and edited, untracked."""
    for name in ("clean", "edited", "deleted", "both"):
        ws.write(f"{name}.odd", encode("first\n"))
    ws.commit("odd")
    ws.write("edited.odd", encode("edited\nmore\n"))
    ws.remove("deleted.odd")
    ws.write("staged.odd", encode("staged\n"))
    ws.write("both.odd", encode("staged\n"))
    ws.add("staged.odd", "both.odd")
    ws.write("both.odd", encode("staged and edited\n"))
    ws.write("untracked.odd", encode("untracked\n"))


def go_round(ws: Workspace, loss: Loss) -> None:
    before, status = fingerprint(ws.path), porcelain(ws)
    saved = saved_from(ws.save())
    lose(ws, loss, saved)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []
    assert porcelain(ws) == status


def cases(values: Any, quick: str) -> list[Any]:
    return [
        pytest.param(value, loss, marks=[] if value == quick and loss is Loss.WIPED else [pytest.mark.slow])
        for value in values
        for loss in LOSSES
    ]


@pytest.mark.parametrize(("name", "loss"), cases(NAMES, "a=b"))
def test_filter_of_an_odd_name_converts(name: str, loss: Loss, ws: Workspace) -> None:
    ws.config(f"filter.{name}.clean", "tr a-z A-Z")
    ws.config(f"filter.{name}.smudge", "tr A-Z a-z")
    ws.config(f"filter.{name}.required", "true")
    ws.write(".gitattributes", f"*.odd filter={name}\n")
    changes(ws, str.encode)
    go_round(ws, loss)


ENCODINGS = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16LE": lambda text: text.encode("utf-16-le"),
    "UTF-16LE-BOM": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "SHIFT-JIS": lambda text: text.encode("shift_jis"),
}


@pytest.mark.parametrize(("encoding", "loss"), cases(ENCODINGS, "UTF-16LE-BOM"))
def test_encoded_file_comes_back(encoding: str, loss: Loss, ws: Workspace) -> None:
    ws.write(".gitattributes", f"*.odd working-tree-encoding={encoding}\n")
    changes(ws, ENCODINGS[encoding])
    go_round(ws, loss)


@pytest.mark.parametrize(("encoding", "loss"), cases(["no-such-encoding", "UTF-16"], ""))
def test_file_that_git_can_not_decode_comes_back(encoding: str, loss: Loss, ws: Workspace) -> None:
    """Git knows no such encoding, or the bytes are none of it: it takes none of these files in."""
    ws.write("tracked.odd", "tracked\n")
    ws.commit("odd")
    ws.write(".gitattributes", f"*.odd working-tree-encoding={encoding}\n")
    ws.write("tracked.odd", b"\xff\xfeedited")
    ws.write("untracked.odd", b"\xff\xfea\0b")
    before = fingerprint(ws.path)
    lose(ws, loss, saved_from(ws.save()))
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []
