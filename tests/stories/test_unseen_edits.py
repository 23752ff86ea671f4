"""An edit that git itself does not see: the size and the times are those in the index."""

from __future__ import annotations

import os

from tests.support.losing import wipe
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

#: Older than any index: git does not look into the file to be sure.
OLD = 1_000_000_000


def test_unseen_edit_stays_in_place_and_is_as_git_has_it_after_a_wipe(ws: Workspace) -> None:
    ws.config("core.trustctime", "false")
    file = ws.path / "a.txt"
    committed = file.read_bytes()
    os.utime(file, (OLD, OLD))
    ws.git("update-index", "--refresh")
    unseen = committed.swapcase()
    file.write_bytes(unseen)
    os.utime(file, (OLD, OLD))
    ws.append("b.txt")
    ws.expect(" M b.txt")
    assert unseen != committed
    saved_from(ws.save())
    recovered_from(ws.recover())
    assert file.read_bytes() == unseen
    saved_from(ws.save())
    file.unlink()
    wipe(ws)
    recovered_from(ws.recover())
    ws.expect(" M b.txt")
    assert file.read_bytes() == committed
