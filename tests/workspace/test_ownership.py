"""What the disk does not let us remove is removed by whoever holds the workspace next."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.workspace.ownership import clean_up_after_kill, clear_journal, forget_index, kept_index, left_index
from tests.support.repositories import three_files

SAVE, OTHER = "20260101T000000.000000Z-aaaaaa-1", "20260101T000000.000000Z-aaaaaa-11"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    ws = three_files(tmp_path)
    ws.gitstate("checkpoint")
    repository = open_repository(os.fsencode(ws.path))
    for path in (kept_index(repository, SAVE), left_index(repository, SAVE, 17), left_index(repository, OTHER, 17)):
        Path(os.fsdecode(path)).write_bytes(b"")
    return repository


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No directory can be listed; what is named can still be removed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def indexes(repository: Repository) -> list[str]:
    names = map(os.fsdecode, os.listdir(repository.own))
    return sorted(name for name in names if name.startswith(("index.", "left.")) and "aaaaaa" in name)


def test_index_that_was_not_listed_is_removed_before_the_workspace_is_given_back(repository: Repository) -> None:
    with no_descriptors():
        forget_index(repository, SAVE)
    assert indexes(repository) == [f"left.{SAVE}.17", f"left.{OTHER}.17"]
    clear_journal(repository)
    assert indexes(repository) == [f"left.{OTHER}.17"]
    assert not os.path.lexists(os.path.join(repository.own, b"journal"))


def test_index_that_was_not_listed_is_removed_by_the_next_holder(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: bytes) -> list[bytes]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr("gitstate.workspace.ownership.os.listdir", fails)
        forget_index(repository, SAVE)
        clear_journal(repository)
    assert indexes(repository) == [f"left.{SAVE}.17", f"left.{OTHER}.17"]
    # The next holder is another process.
    monkeypatch.setattr("gitstate.workspace.ownership._unlisted", set())
    clean_up_after_kill(repository)
    assert indexes(repository) == [f"left.{OTHER}.17"]
    assert not os.path.lexists(os.path.join(repository.own, b"journal"))
