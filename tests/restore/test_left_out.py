"""Which paths the save had skipped: of those there is nothing to restore."""

from __future__ import annotations

from collections.abc import Iterator

from gitstate.format.manifest import LeftOut
from gitstate.git.opening import open_repository
from gitstate.objects.reader import ObjectReader
from gitstate.restore.paths import SavedPaths
from gitstate.restore.paths import Workspace as Held
from tests.support.made_up import made_up_save
from tests.support.workspace import Workspace


class Counted(tuple[LeftOut, ...]):
    """A list of what was skipped that counts how often it is read from its start."""

    times = 0

    def __iter__(self) -> Iterator[LeftOut]:
        Counted.times += 1
        return super().__iter__()


def test_list_of_skipped_paths_is_read_once(ws: Workspace) -> None:
    """An index of which 12,000 objects are missing made a recovery compare each path with each."""
    skipped = [b"", b"directory/", b"deep/one", *(b"file-%d" % number for number in range(50))]
    save = made_up_save(left_out=Counted(LeftOut(path, "unreadable", True) for path in skipped))
    repository = open_repository(bytes(ws.path))
    with ObjectReader(repository.git) as reader:
        paths = SavedPaths(Held.of(repository, repository.git, reader), (save,))
        asked = [b"file-%d" % number for number in range(50)]
        assert all(paths.was_left_out(path) for path in (*asked, b"directory", b"directory/a/b", b"deep/one/x"))
        assert not any(paths.was_left_out(path) for path in (b"file-", b"deep", b"deep/on", b"other/directory"))
    assert Counted.times == 1
