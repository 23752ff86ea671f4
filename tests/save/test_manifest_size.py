"""A save makes no manifest that nobody reads."""

from __future__ import annotations

import pytest

from gitstate.errors import GitstateError
from gitstate.format.manifest import Manifest, read_manifest
from gitstate.save.build import readable
from gitstate.snapshot.record import Snapshot
from gitstate.system.jsonio import dumps
from tests.support.made_up import made_up_save


def manifest_of(directories: int, staged: int) -> Manifest:
    return made_up_save(
        staged={b"staged/%d" % number: (0o100644, "2" * 40) for number in range(staged)},
        directories={b"empty/%d" % number: 0o755 for number in range(directories)},
        special={},
        sparse_directories=(),
        absent_submodules=(),
    ).manifest


def test_manifest_of_usual_size_stays_as_it_is() -> None:
    taken = Snapshot()
    manifest = manifest_of(3000, 10)
    assert readable(manifest, taken) == manifest
    assert not taken.left_out


def test_manifest_that_is_too_large_goes_without_lists_and_says_so() -> None:
    taken = Snapshot()
    smaller = readable(manifest_of(3000, 10), taken, most=20_000)
    data = dumps(smaller.to_json())
    assert len(data) <= 20_000
    read = read_manifest(data, 20_000)
    assert not read.directories and len(read.staged) == 10
    assert [item.lost for item in taken.left_out] == [True] and read.incomplete


def test_manifest_that_stays_too_large_is_no_save() -> None:
    with pytest.raises(GitstateError, match="nothing was changed"):
        readable(manifest_of(0, 3000), Snapshot(), most=20_000)
