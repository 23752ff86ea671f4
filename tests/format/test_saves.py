"""Which saves a repository holds is answered in one place, from refs alone where that is possible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.errors import NeedsPerson
from gitstate.format.archive import (
    archives_of,
    checkpoint_archives,
    checkpoint_save_id,
    held_saves,
    pending_archive,
    pending_archives,
    pending_in_files,
    pending_save_id,
    save_ids,
)
from gitstate.format.find import find_save
from gitstate.format.names import checkpoint_ref, own_marker, save_ref, workspace_id
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    return ws


def repository_of(ws: Workspace) -> Repository:
    return open_repository(os.fsencode(ws.path))


def test_nothing_is_pending_before_a_save(ws: Workspace) -> None:
    repository = repository_of(ws)
    assert pending_archive(repository) is None and pending_save_id(repository) is None
    assert checkpoint_save_id(repository) is None and held_saves(repository.git) == []
    assert pending_archives(repository.git) == pending_in_files(repository.common_dir) == {}


@pytest.mark.parametrize("packed", [False, True])
def test_pending_save_is_found(packed: bool, ws: Workspace) -> None:
    told = ws.save().json
    repository = repository_of(ws)
    if packed:
        ws.git("pack-refs", "--all")
    own = workspace_id(repository)
    assert ws.refs("refs/gitstate/")[own_marker(repository)] == told["archive"]
    assert pending_archive(repository) == told["archive"] and pending_save_id(repository) == told["save_id"]
    assert pending_archives(repository.git) == pending_in_files(repository.common_dir) == {own: told["archive"]}
    (held,) = held_saves(repository.git)
    assert held == (save_ref(own, told["save_id"]), own, told["save_id"], told["archive"], None)
    assert held_saves(repository.git, own) == [held] and held_saves(repository.git, "other") == []
    assert find_save(repository, told["save_id"]) == held


def test_saves_are_named_without_being_opened(ws: Workspace) -> None:
    told = ws.save().json
    repository = repository_of(ws)
    own = workspace_id(repository)
    packed, loose, other = "20200101T000000.000000Z-aaaaaa", "20200101T000000.000000Z-bbbbbb", "no-time"
    for name in (packed, other):
        ws.git("update-ref", save_ref(own, name), "HEAD")
    ws.git("update-ref", save_ref("another", loose), "HEAD")
    ws.git("pack-refs", "--all")
    ws.git("update-ref", save_ref(own, loose), told["archive"])
    # Also where a loose ref hides the packed one, and beside the lock of a git that was killed.
    (ws.common_dir / save_ref(own, packed)).write_text(told["archive"] + "\n")
    (ws.common_dir / (save_ref(own, "locked") + ".lock")).touch()
    held = {item.save_id: item.archive for item in held_saves(repository.git, own)}
    assert set(save_ids(repository)) == set(held) == {told["save_id"], packed, loose, other}
    assert archives_of(repository, [*held, "20200101T000000.000000Z-cccccc"]) == held


def test_pending_save_is_named_though_git_can_read_no_object(ws: Workspace) -> None:
    told = ws.save().json
    repository = repository_of(ws)
    (ws.git_dir / "objects").rename(ws.git_dir / "gone")
    assert pending_save_id(repository) == told["save_id"]


def test_pending_save_whose_own_ref_is_gone_is_named_by_its_manifest(ws: Workspace) -> None:
    told = ws.save().json
    repository = repository_of(ws)
    ws.git("update-ref", "-d", save_ref(workspace_id(repository), told["save_id"]))
    assert pending_save_id(repository) == told["save_id"] and held_saves(repository.git) == []


def test_latest_checkpoint_is_found_by_its_id(ws: Workspace) -> None:
    told = ws.gitstate("checkpoint", "--json").json
    repository = repository_of(ws)
    own = workspace_id(repository)
    assert checkpoint_save_id(repository) == told["save_id"]
    assert checkpoint_archives(repository.git) == {own: told["archive"]}
    found = (checkpoint_ref(own), own, told["save_id"], told["archive"], None)
    assert find_save(repository, told["save_id"]) == found


@pytest.mark.parametrize("save_id", ["20200101T000000.000000Z-abcdef", "../x", "", "-x"])
def test_save_that_is_not_there(save_id: str, ws: Workspace) -> None:
    ws.save()
    with pytest.raises(NeedsPerson, match="no save"):
        find_save(repository_of(ws), save_id)


def test_refs_that_gitstate_would_not_write_hold_no_save(ws: Workspace) -> None:
    ws.git("update-ref", "refs/gitstate/saves/lone", "HEAD")
    ws.git("update-ref", "refs/gitstate/saves/a/b/c", "HEAD")
    ws.git("update-ref", "refs/gitstate/pending/a/b", "HEAD")
    repository = repository_of(ws)
    assert held_saves(repository.git) == [] and pending_archives(repository.git) == {}
