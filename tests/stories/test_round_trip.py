"""Save, lose, recover: every nasty state of ``tests/states/``, through every way of losing it.

``pytest -k merge_conflict`` picks states, ``-k linked`` linked worktrees. A quick run saves each state once, and loses
it in the ways that add the most; each other way is a slow test of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.states import STATES, Loss, State, make
from tests.support.layers import in_an_image
from tests.support.look import Look, look, paths_of, porcelain
from tests.support.losing import each_lost_alone, lose, release
from tests.support.oracle import fingerprint
from tests.support.plain_index import check_plain_index
from tests.support.recovering import RESTORED, check_recovered, recovered_from
from tests.support.repositories import Templates
from tests.support.saving import Saved, save
from tests.support.workspace import Workspace

#: A quick run loses each state, but leaves only each third one in its place.
IN_PLACE_STEP = 3


def round_trips(*, linked: bool) -> list[Any]:
    """Each state with the ways of loss that it is meant to survive: one test of the quick ones, one for each other."""
    cases = []
    for number, kind in enumerate(STATES.values()):
        losses = kind.losses - {Loss.CLONED, Loss.PLAIN} if linked else kind.losses
        quick = losses & (kind.quick | {Loss.REMOVED} if linked else kind.quick)
        if number % IN_PLACE_STEP and quick > {Loss.IN_PLACE}:
            quick -= {Loss.IN_PLACE}
        if linked and not kind.linked:
            continue
        together = quick if not kind.no_copies else frozenset()
        for group in (together, *({loss} for loss in Loss if loss in losses - together)):
            ways = tuple(loss for loss in Loss if loss in group)
            marks = [pytest.mark.slow] if kind.slow or not quick.issuperset(group) else []
            if ways:
                name = "-".join((kind.name, *(loss.value for loss in ways)))
                cases.append(pytest.param(kind, ways, id=name, marks=marks))
    return cases


def go_round(kind: State, losses: Sequence[Loss], ws: Workspace) -> None:
    before = look(ws)
    saved = save(ws, kind, before)
    for loss, lost in each_lost_alone(ws, losses):
        try:
            come_back(kind, loss, lost, before, saved)
        except BaseException as error:
            error.add_note(f"lost: {loss.value}")
            raise


def come_back(kind: State, loss: Loss, ws: Workspace, before: Look, saved: Saved) -> None:
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


@pytest.mark.parametrize(("kind", "losses"), round_trips(linked=False))
def test_round_trip(kind: State, losses: Sequence[Loss], templates: Templates, tmp_path: Path) -> None:
    skip_where_impossible(kind)
    ws = make(kind, templates, tmp_path / "top")
    check_plain_index(ws)
    go_round(kind, losses, ws)


@pytest.mark.parametrize(("kind", "losses"), round_trips(linked=True))
def test_round_trip_of_a_linked_worktree(
    kind: State, losses: Sequence[Loss], templates: Templates, tmp_path: Path
) -> None:
    skip_where_impossible(kind)
    ws = make(kind, templates, tmp_path / "top", linked=True)
    assert ws.main is not None
    ws.bystanders.append(ws.main)
    go_round(kind, losses, ws)


@pytest.mark.sample(5)
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("loss", [Loss.IN_PLACE, Loss.WIPED, Loss.BASE])
@pytest.mark.parametrize("name", ["everything_at_once", "merge_conflict", "submodule_dirty"])
def test_round_trip_of_what_an_image_holds(
    name: str, loss: Loss, other: bool, templates: Templates, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    ws = make(STATES[name], templates, top)
    with in_an_image(top, tmp_path / "layers", other=other):
        go_round(STATES[name], [loss], ws)
