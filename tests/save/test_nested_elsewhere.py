"""A `.git` inside a workspace that leads to a repository elsewhere: whose it is, and that nothing is written there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oracle import fingerprint
from tests.support.repositories import initialized
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def other(ws: Workspace) -> Workspace:
    """A repository beside the workspace, with one commit and one changed file."""
    path = ws.outside / "other"
    path.mkdir()
    found = initialized(path)
    found.write("a", "a0\n")
    found.commit()
    found.write("a", "work of the other\n")
    return found


def _by_file(inside: Path, other: Workspace) -> None:
    (inside / ".git").write_text(f"gitdir: {other.git_dir}\n")


def _by_link(inside: Path, other: Workspace) -> None:
    (inside / ".git").symlink_to(other.git_dir)


def _by_objects(inside: Path, other: Workspace) -> None:
    run_git(inside, "init", "-q")
    (inside / ".git/objects").rename(inside.parent / "objects of before")
    (inside / ".git/objects").symlink_to(other.git_dir / "objects")
    # Which it may say of itself.
    run_git(inside, "config", "core.worktree", str(inside))


def _by_common_directory(inside: Path, other: Workspace) -> None:
    run_git(inside, "init", "-q")
    (inside / ".git/commondir").write_text(f"{other.git_dir}\n")


def _all_below(top: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


@pytest.mark.sample(2)
@pytest.mark.parametrize("lead", [_by_file, _by_link, _by_objects, _by_common_directory])
def test_repository_elsewhere_gets_no_save_and_gives_none(
    lead: Callable[[Path, Workspace], None], ws: Workspace, other: Workspace
) -> None:
    """It would come back there, in the place of the files of today."""
    inside = ws.path / "n"
    inside.mkdir()
    lead(inside, other)
    (inside / "a").write_text("planted\n")
    ws.append("a.txt")
    there = _all_below(other.git_dir)
    run = ws.save()
    assert run.exit_status == 4 and "n: the repository in it could not be saved: its .git leads to" in run.stderr, run
    assert _all_below(other.git_dir) == there
    assert other.save(task_id="T-2").exit_status == 0
    before, refs = fingerprint(ws.path), other.refs("refs/gitstate")
    run = ws.recover()
    assert run.exit_status == 4 and "T-2" not in str(run.json), run
    assert (fingerprint(ws.path).files, other.refs("refs/gitstate")) == (before.files, refs)
    assert not ws.refs("refs/gitstate/unfinished"), "there is nothing to bring back"


def test_repository_that_names_the_directory_as_its_worktree_is_saved(ws: Workspace, other: Workspace) -> None:
    """As a linked worktree does, or by `core.worktree`; and one whose git directory is in the workspace, too."""
    other.git("worktree", "add", "-q", ws.path / "linked")
    for name, place in (("separate", ws.outside / "separate"), ("beside", ws.path / "git directory of beside")):
        run_git(ws.path, "init", "-q", f"--separate-git-dir={place}", name)
        (ws.path / name / "new").write_text("new\n")
    run = ws.save()
    ((skipped,),) = ([line for line in run.stderr.splitlines() if "leads to" in line],)
    command = skipped.partition("if it is: ")[2]
    run_git(ws.path, *command.split()[1:])
    (ws.path / "linked/new").write_text("new\n")
    run = ws.save()
    assert run.exit_status == 0, run
    for name in ("linked", "separate", "beside"):
        (ws.path / name / "new").unlink()
    assert ws.recover().exit_status == 0
    assert all((ws.path / name / "new").read_text() == "new\n" for name in ("linked", "separate", "beside"))
