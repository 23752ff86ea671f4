"""Save, lose, recover: every nasty state of ``tests/states/``, through every way of losing it.

``pytest -k merge_conflict`` picks states, ``-k wiped`` a way of loss, ``-k linked`` linked worktrees. Combinations that
add little are marked slow; ``-m slow`` runs them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.states import STATES, Loss, State, make
from tests.support.layers import in_an_image
from tests.support.look import Look, look, paths_of, porcelain
from tests.support.losing import lose, release
from tests.support.oracle import fingerprint
from tests.support.plain_index import check_plain_index
from tests.support.recovering import RESTORED, check_recovered, recovered_from
from tests.support.repositories import Templates
from tests.support.saving import Saved, save
from tests.support.workspace import Workspace


def round_trips(*, linked: bool) -> list[Any]:
    """Each state with each way of loss that it is meant to survive."""
    cases = []
    for kind in STATES.values():
        for loss in Loss:
            if loss not in kind.losses or (linked and (not kind.linked or loss in (Loss.CLONED, Loss.PLAIN))):
                continue
            quick = loss in kind.quick or (linked and loss is Loss.REMOVED)
            marks = [pytest.mark.slow] if kind.slow or not quick else []
            cases.append(pytest.param(kind, loss, id=f"{kind.name}-{loss.value}", marks=marks))
    return cases


def first_tried(kind: State) -> Loss:
    """The first way of loss that a run tries on this state, be it quick or not."""
    tried = kind.losses if kind.slow else kind.losses & kind.quick
    return next(loss for loss in Loss if loss in tried)


def go_round(kind: State, loss: Loss, ws: Workspace) -> None:
    before = look(ws)
    saved = save(ws, kind, before)
    if loss is Loss.PLAIN:
        unwind_with_git_alone(ws, before, saved)
        return
    where, options = lose(ws, loss, saved)
    answer = recovered_from(ws.recover(*options, path=where), exits=kind.recover_exits)
    assert answer["verdict"] in RESTORED
    assert answer["save_id"] == saved.save_id
    assert answer["kept"] == []
    assert paths_of(answer["left_out"]) >= saved.left_out
    check_recovered(ws, kind, before, saved, loss)


def unwind_with_git_alone(ws: Workspace, before: Look, saved: Saved) -> None:
    """The README's promise to those who have no gitstate: two resets."""
    release(ws, Loss.PLAIN)
    if saved.moved:
        ws.git("reset", "-q", "HEAD~1", "--")
        if saved.document["index_commit"]:
            ws.git("reset", "-q", "--soft", "HEAD~1", "--")
    after = fingerprint(ws.path)
    bare = [replace(entry, flags=()) for entry in before.fingerprint.index]
    expected = replace(before.fingerprint, index=tuple(bare), nested={})
    assert expected.diff(replace(after, nested={})) == []
    assert porcelain(ws) == before.status


def skip_where_impossible(kind: State) -> None:
    reason = kind.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize(("kind", "loss"), round_trips(linked=False))
def test_round_trip(kind: State, loss: Loss, templates: Templates, tmp_path: Path) -> None:
    skip_where_impossible(kind)
    ws = make(kind, templates, tmp_path)
    if loss is first_tried(kind):
        check_plain_index(ws)
    go_round(kind, loss, ws)


@pytest.mark.parametrize(("kind", "loss"), round_trips(linked=True))
def test_round_trip_of_a_linked_worktree(kind: State, loss: Loss, templates: Templates, tmp_path: Path) -> None:
    skip_where_impossible(kind)
    ws = make(kind, templates, tmp_path, linked=True)
    assert ws.main is not None
    main = fingerprint(ws.main)
    go_round(kind, loss, ws)
    assert main.diff(fingerprint(ws.main)) == [], "the main worktree is not ours"


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("loss", [Loss.IN_PLACE, Loss.WIPED, Loss.BASE])
@pytest.mark.parametrize("name", ["everything_at_once", "merge_conflict", "submodule_dirty"])
def test_round_trip_of_what_an_image_holds(
    name: str, loss: Loss, other: bool, templates: Templates, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    ws = make(STATES[name], templates, top)
    with in_an_image(top, tmp_path / "layers", other=other):
        go_round(STATES[name], loss, ws)
