"""A builder on a small repository, for tests of one part of a snapshot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import ObjectReader
from gitstate.snapshot.record import Growth, SnapshotBuilder, SnapshotOptions
from gitstate.snapshot.tracked import read_listing
from gitstate.system.clock import Deadline
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

NewBuilder = Callable[..., SnapshotBuilder]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


@pytest.fixture
def new_builder(ws: Workspace) -> NewBuilder:
    """Makes a builder for the repository as it is now, with the index listed."""

    def make(
        largest: int | None = None, deadline: float | None = None, growth: Growth | None = None
    ) -> SnapshotBuilder:
        repository = open_repository(os.fsencode(ws.path))
        writer = PackWriter(repository.objects, repository.object_format, "test")
        options = SnapshotOptions(b"active_state.json", Deadline(deadline), largest, growth)
        index = os.path.join(repository.git_dir, b"index")
        builder = SnapshotBuilder(repository, writer, ObjectReader(repository.git), index, options)
        read_listing(builder, repository.git.start("ls-files", "-z", "-v", "--sparse"))
        return builder

    return make
