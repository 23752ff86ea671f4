"""`.git/gitstate` as a link, or as anything that is no directory: every command refuses, nothing is followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


@pytest.mark.parametrize(
    "command", ["save", "checkpoint", "recover", "begin task_id=x", "log", "finish", "run -- true"]
)
def test_link_at_our_directory_is_refused(ws: Workspace, command: str) -> None:
    target = ws.outside / "elsewhere"
    (target / "checkout").mkdir(parents=True)
    (target / "checkout" / "file").write_text("precious")
    (target / "x.tmp-1").write_text("precious")
    (ws.git_dir / "gitstate").symlink_to(target)
    ws.append("a")
    run = ws.gitstate(*command.split())
    assert run.exit_status == 4 and "not a directory of the repository's own" in run.stderr, run
    assert sorted(path.name for path in target.rglob("*")) == ["checkout", "file", "x.tmp-1"]


def test_file_at_our_directory_is_refused(ws: Workspace) -> None:
    ws.write(".git/gitstate", "a file\n")
    run = ws.save()
    assert run.exit_status == 4 and "gitstate" in run.stderr, run
    assert ws.read(".git/gitstate") == b"a file\n"


def test_link_inside_our_directory_is_removed_not_followed(ws: Workspace) -> None:
    target = ws.outside / "elsewhere"
    target.mkdir()
    (target / "file").write_text("precious")
    ws.append("a")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", "HEAD~1")
    (ws.path / "b").unlink()
    (ws.git_dir / "gitstate" / "checkout").symlink_to(target)
    assert ws.recover().exit_status == 0
    assert (ws.path / "b").exists() and (target / "file").read_text() == "precious"
