"""A save whose worktree is gone gets a new one: once, whoever else does the same, and whenever that was broken off."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from gitstate.errors import NeedsPerson
from gitstate.fleet.recover_all import _recovered_by_another
from gitstate.git.opening import open_repository
from gitstate.recover import recover as recovering
from gitstate.recover.recover import recover_into
from gitstate.recover.request import RecoverRequest, RecoverResult
from tests.states import STATES, dirty, make
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import GITSTATE, Workspace, run_gitstate


@pytest.fixture
def lost(templates: Templates, tmp_path: Path) -> Workspace:
    """A linked worktree with work in it, which is saved."""
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    dirty(ws)
    return ws


def recover(ws: Workspace) -> str:
    assert ws.main is not None
    run = run_gitstate("recover", "--worktrees", "--json", cwd=ws.main)
    assert run.exit_status == 0, run
    return run.text


def test_worktree_of_which_the_empty_directory_is_left_comes_back_there(lost: Workspace) -> None:
    before = fingerprint(lost.path)
    assert lost.save().exit_status == 0
    shutil.rmtree(lost.path)
    lost.path.mkdir()
    recover(lost)
    assert before.diff(fingerprint(lost.path)) == []


def test_several_that_recover_the_same_worktrees_at_once_bring_each_back_once(ws: Workspace) -> None:
    lost = [Workspace(ws.outside / f"lost{number}", ws.outside) for number in range(3)]
    for one in lost:
        ws.git("worktree", "add", "-q", "-b", f"of-{one.path.name}", one.path)
        one.write("new.txt", f"{one.path.name}\n")
        assert one.save("--task-id", one.path.name).exit_status == 0
        shutil.rmtree(one.path)
    words = [*GITSTATE, "recover", "--worktrees"]
    started = [subprocess.Popen(words, cwd=ws.path, stderr=subprocess.PIPE) for _ in range(3)]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert [status for _, status in ended] == [0, 0, 0], ended
    assert [one.read("new.txt").decode() for one in lost] == [f"{one.path.name}\n" for one in lost]
    assert b"".join(said for said, _ in ended).count(b"\nrestore ") == 3, ended
    assert ws.refs("refs/gitstate/pending") == {}


def test_what_git_was_writing_when_it_was_killed_is_nobodys_work(lost: Workspace) -> None:
    """The filter of a file kills git and gitstate; of another file git had written the beginning."""
    flag = lost.outside / "flag"
    flag.touch()
    lost.write(".gitattributes", "z.txt filter=deadly\n")
    lost.write("z.txt")
    lost.commit("a file with a filter")
    assert lost.main is not None
    kills = "set -- $(cat /proc/$PPID/stat); kill -KILL $4 $PPID"
    lost.git("config", "filter.deadly.smudge", f"if [ -e {flag} ]; then rm {flag}; {kills}; fi; cat")
    lost.append("b.txt", "work\n")
    before = fingerprint(lost.path)
    assert lost.save().exit_status == 0
    shutil.rmtree(lost.path)
    killed = run_gitstate("recover", "--worktrees", cwd=lost.main)
    assert killed.exit_status == -9, killed
    assert not flag.exists() and (lost.path / "a.txt").exists() and not (lost.path / "z.txt").exists()
    lost.write("a.txt", lost.read("a.txt")[:2])
    lost.write("mine.txt", "somebody's\n")
    lost.write("b.txt", "edited by somebody\n")
    told = recover(lost)
    assert "may be cut; as they were: save " in told
    assert lost.read("mine.txt") == b"somebody's\n"
    lost.remove("mine.txt")
    assert before.diff(fingerprint(lost.path)) == []
    assert not (lost.git_dir / "gitstate/filling").exists()
    *_, safety = (item for item in lost.gitstate("log", "--json").json["saves"] if item["manifest"]["kind"] == "safety")
    assert lost.git("show", f"{safety['archive']}^:b.txt") == b"edited by somebody\n"


@pytest.mark.parametrize("written", [("locked",), ("locked", "gitdir"), ("locked", "gitdir", "HEAD", "commondir")])
def test_what_a_killed_git_worktree_add_has_left_is_removed(lost: Workspace, written: tuple[str, ...]) -> None:
    """With a part of it git can list no worktree of the repository."""
    before = fingerprint(lost.path)
    assert lost.save().exit_status == 0 and lost.main is not None
    shutil.rmtree(lost.path)
    kept = lost.outside / "kept"
    Workspace(lost.main, lost.outside).git("worktree", "add", "-q", "--lock", "-b", "kept", kept)
    common = lost.main / ".git"
    (common / "gitstate/worktree-added").write_bytes(os.fsencode(lost.path))
    half = common / "worktrees/half"
    half.mkdir()
    contents = {"locked": "initializing\n", "gitdir": f"{lost.path}/.git\n", "HEAD": "0" * 40, "commondir": "../..\n"}
    for name in written:
        (half / name).write_text(contents[name])
    if "gitdir" in written:
        lost.path.mkdir()
        (lost.path / ".git").write_text(f"gitdir: {half}\n")
    recover(lost)
    assert before.diff(fingerprint(lost.path)) == []
    assert not half.exists() and (kept / "a.txt").exists()


def test_save_that_was_recovered_meanwhile_gets_no_second_worktree(lost: Workspace) -> None:
    save_id = lost.save().json["save_id"]
    shutil.rmtree(lost.path)
    recover(lost)
    assert lost.main is not None
    repository, second = open_repository(os.fsencode(lost.main)), lost.outside / "second"
    with pytest.raises(NeedsPerson, match="meanwhile"):
        recover_into(repository, os.fsencode(second), RecoverRequest(save_id), only_pending=True)
    assert not second.exists()


def test_worktree_that_is_locked_for_its_disk_keeps_its_git_directory(lost: Workspace) -> None:
    """Git adds none in its place, and it is mounted again."""
    before = fingerprint(lost.path)
    assert lost.save().exit_status == 0 and lost.main is not None
    git_dir, away = lost.git_dir, lost.outside / "away"
    Workspace(lost.main, lost.outside).git("worktree", "lock", lost.path)
    lost.path.rename(away)
    for _ in range(2):
        run = run_gitstate("recover", "--worktrees", cwd=lost.main)
        assert run.exit_status != 0 and (git_dir / "index").exists(), run
    away.rename(lost.path)
    assert lost.recover().exit_status == 0
    assert before.diff(fingerprint(lost.path)) == []


def test_commit_makes_what_a_broken_recovery_left_somebodys(lost: Workspace) -> None:
    save_id = lost.save().json["save_id"]
    lost.recover()
    # As if it had been broken off: git was still at work.
    (lost.git_dir / "gitstate/filling").write_text(save_id)
    (lost.git_dir / "gitstate/context.json").unlink()
    lost.commit("somebody's")
    before = fingerprint(lost.path)
    assert lost.recover().exit_status == 0
    assert before.diff(fingerprint(lost.path)) == []
    assert not (lost.git_dir / "gitstate/filling").exists()


def test_recovery_that_fails_once_all_files_are_there_leaves_them_to_whoever_works_there(
    lost: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_id = lost.save().json["save_id"]
    shutil.rmtree(lost.path)
    assert lost.main is not None

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(recovering, "_recover_locked", fail)
    with pytest.raises(OSError, match="input/output"):
        recover_into(open_repository(os.fsencode(lost.main)), os.fsencode(lost.path), RecoverRequest(save_id))
    assert (lost.path / "a.txt").exists() and not (lost.git_dir / "gitstate/filling").exists()


def test_save_that_can_not_be_read_is_not_taken_for_recovered(lost: Workspace) -> None:
    save_id = lost.save().json["save_id"]
    shutil.rmtree(lost.path)
    assert lost.main is not None
    repository = open_repository(os.fsencode(lost.main))
    gone = RecoverResult(os.fsencode(lost.path), "elsewhere", save_id=save_id, exit_status=4)
    (marker,) = (lost.main / ".git/refs/gitstate/pending").iterdir()
    marker.write_text("1" * 40 + "\n")
    assert _recovered_by_another(repository, gone, RecoverRequest()) is None
