"""What is looked at before it is read which save is pending."""

from __future__ import annotations

import os
import signal

from gitstate.git.opening import open_repository
from gitstate.restore.differences import compare_ahead
from gitstate.restore.index import scan_ahead
from tests.support.workspace import Workspace


def test_tracked_files_are_looked_at_by_the_one_index_that_was_kept(ws: Workspace) -> None:
    path = os.fsencode(ws.path)
    assert scan_ahead(open_repository(path)) is None, "nothing is pending"
    ws.write("a.txt", "changed\n")
    ws.save()
    found = scan_ahead(open_repository(path))
    assert found is not None and os.path.dirname(found.index) == os.fsencode(ws.git_dir / "gitstate")
    found.end()


def test_index_is_not_guessed_among_several(ws: Workspace) -> None:
    ws.write("a.txt", "changed\n")
    ws.save()
    (ws.git_dir / "gitstate" / "index.20260102T030405.000006Z-abcdef-1").write_bytes(b"")
    assert scan_ahead(open_repository(os.fsencode(ws.path))) is None


def test_no_filter_runs_for_a_save_that_may_not_be_recovered(ws: Workspace) -> None:
    """An agent may still work here, or the repository's filters may be a stranger's."""
    ws.write("a.txt", "changed\n")
    ws.save()
    ws.config("filter.x.clean", "cat")
    assert scan_ahead(open_repository(os.fsencode(ws.path))) is None


def test_git_gets_ready_to_compare_large_trees_alone(ws: Workspace) -> None:
    path = os.fsencode(ws.path)
    assert compare_ahead(open_repository(path)) is None, "nothing is pending"
    ws.write("a.txt", "changed\n")
    ws.save()
    assert compare_ahead(open_repository(path)) is None, "so few are read here before git has started"
    (kept,) = (ws.git_dir / "gitstate").glob("index.*")
    os.truncate(kept, 300 << 10)
    found = compare_ahead(open_repository(path))
    assert found is not None
    found.end()
    assert found.returncode == -signal.SIGKILL
