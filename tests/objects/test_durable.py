"""Files of other programs are synced, even while those programs change them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.refs import RefWriter
from gitstate.git.repository import Repository
from gitstate.objects import durable, pack
from gitstate.objects.durable import FilesToDisk, OthersToDisk, start_sync_since
from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from gitstate.snapshot.incremental import Baseline
from gitstate.system import child, files
from gitstate.system.child import FilesystemSync
from gitstate.system.process import filesystem_type
from tests.support.repositories import three_files


def test_file_that_vanishes_during_the_scan_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git renames each new object, so a directory listing may name a file that is gone."""
    for name in ("tmp_obj_1", "tmp_obj_2", "written", "written before"):
        (tmp_path / name).write_text(name)
    listed, synced = os.scandir, list[bytes]()

    @contextlib.contextmanager
    def scandir(directory: bytes) -> Iterator[list[os.DirEntry[bytes]]]:
        with listed(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for number in (1, 2):
            (tmp_path / f"tmp_obj_{number}").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(files, "fsync_path", synced.append)
    start_sync_since([os.fsencode(tmp_path)], 0)
    assert {os.path.basename(path) for path in synced} >= {b"written", b"written before"}


@pytest.mark.parametrize("dirt", ["little", "much"])
def test_save_syncs_what_an_agent_staged_by_one_call_where_little_else_waits(
    dirt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fsync makes the disk empty its cache. The one call waits for the data of all programs."""
    ws = three_files(tmp_path)
    for number in range(9):
        ws.write(f"staged{number}", f"{number}\n")
    ws.add(".")
    synced: list[bytes] = []
    filesystems: list[bytes] = []
    fsync_path = files.fsync_path

    def counted(path: bytes) -> None:
        synced.append(path.removeprefix(os.fsencode(ws.git_dir)))
        fsync_path(path)

    class Counted(FilesystemSync):
        def __init__(self, path: bytes) -> None:
            filesystems.append(path)
            super().__init__(path)

    monkeypatch.setattr(files, "fsync_path", counted)
    monkeypatch.setattr(durable, "FilesystemSync", Counted)
    monkeypatch.setattr(durable, "filesystem_type", lambda device: b"ext4")
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: 0.0 if dirt == "little" else float("inf"))
    assert save(os.fsencode(ws.path), SaveRequest()).branch_moved
    loose = [path for path in synced if path.startswith(b"/objects/") and path.count(b"/") == 3]
    control = {b"/HEAD", b"/index", b"/config", b"/objects", b"/objects/pack", b"/gitstate"}
    if dirt == "little":
        assert len(filesystems) == 1 and not loose and not control & {*synced}
        # The directories of the refs, and the git directory for the index.
        assert len(synced) < 12, synced
    else:
        assert not filesystems and len(loose) >= 9 and control <= {*synced}
        assert any(b"/gitstate/index." in path for path in synced)


def test_one_sync_needs_no_file_that_another_git_may_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync -f` opens what it is given: another git may remove a file meanwhile, or hold it unreadable."""
    for number in range(9):
        (tmp_path / f"object{number}").touch()
    places: list[bytes] = []
    stat = os.stat

    class Counted(FilesystemSync):
        def __init__(self, path: bytes) -> None:
            places.append(path)
            super().__init__(path)

    def gone(path: bytes, *, follow_symlinks: bool = True) -> os.stat_result:
        found = stat(path, follow_symlinks=follow_symlinks)
        if path == os.fsencode(tmp_path / "ref"):
            (tmp_path / "ref").unlink(missing_ok=True)
        return found

    (tmp_path / "ref").touch()
    monkeypatch.setattr(durable, "FilesystemSync", Counted)
    monkeypatch.setattr(durable, "filesystem_type", lambda device: b"ext4")
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: 0.0)
    monkeypatch.setattr(os, "stat", gone)
    start_sync_since([os.fsencode(tmp_path)], 0, [os.fsencode(tmp_path / "ref")])
    assert places == [os.fsencode(tmp_path)]


@pytest.mark.parametrize(("dirt", "listed"), [(0, 2), (16 << 20, 9), (1 << 30, 20)])
def test_no_more_is_looked_for_once_one_sync_is_due(
    dirt: int, listed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a repository that was never saved every object is new."""
    places = [tmp_path / f"{number:02x}" for number in range(20)]
    for place in places:
        place.mkdir()
        for number in range(3):
            (place / f"object{number}").touch()
    seen: list[bytes] = []
    scandir = os.scandir

    def counted(path: bytes) -> object:
        seen.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    monkeypatch.setattr(durable, "filesystem_type", lambda device: b"ext4")
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: float(dirt))
    start_sync_since([os.fsencode(place) for place in places], 0)
    assert len(seen) == listed


@pytest.mark.parametrize("step", [-3600, -30, 3600, 0])
def test_all_is_synced_once_the_clock_was_set(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a clock was set back new objects look older than those that are on the disk."""
    ws = three_files(tmp_path)
    stamps: list[int] = []
    since = durable.start_sync_since

    def noted(
        directories: Iterable[bytes], stamp: int, others: Iterable[bytes] = ()
    ) -> tuple[int, list[FilesystemSync]]:
        stamps.append(stamp)
        return since(directories, stamp, others)

    monkeypatch.setattr(durable, "start_sync_since", noted)
    OthersToDisk(open_repository(os.fsencode(ws.path)), "one").finish()
    time_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: time_ns() + step * 10**9)
    OthersToDisk(open_repository(os.fsencode(ws.path)), "one").finish()
    OthersToDisk(open_repository(os.fsencode(ws.path)), "one").finish()
    assert stamps[0] == 0 and (stamps[1] == 0) == (step != 0)
    # The clock of the files was not set: where it is behind, what is written always looks old.
    assert (stamps[2] == 0) == (step > 0)


@pytest.mark.parametrize("data", [b"", b"x", b"12", b"12 x", b"-1 3", b"1 2 3"])
def test_stamp_that_no_save_wrote_vouches_for_nothing(data: bytes, tmp_path: Path) -> None:
    ws = three_files(tmp_path)
    (ws.git_dir / "gitstate").mkdir(exist_ok=True)
    (ws.git_dir / "gitstate/durable").write_bytes(data)
    OthersToDisk(open_repository(os.fsencode(ws.path)), "one").finish()
    stamp, offset, tag = (ws.git_dir / "gitstate/durable").read_bytes().split()
    assert stamp.isdigit() and int(offset) and tag == b"one"


def test_control_files_are_synced_again_only_once_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk empties its cache for each, changed or not: a dozen of them took longer than all of the files of a save.

    Each worktree has its own.
    """
    ws = three_files(tmp_path)
    ws.git("worktree", "add", "-q", "../other")
    places = {"one": ws.path, "other": tmp_path / "other"}
    monkeypatch.setattr(durable, "_CLOCK_SLACK_NS", 50_000_000)
    synced: list[str] = []
    monkeypatch.setattr(files, "fsync_path", lambda path: synced.append(os.path.relpath(os.fsdecode(path), tmp_path)))

    def bring(tag: str) -> set[str]:
        time.sleep(0.06)
        synced.clear()
        OthersToDisk(open_repository(os.fsencode(places[tag])), tag).finish()
        return {*synced}

    monkeypatch.setattr(durable, "_clock_offset", lambda: 1)
    monkeypatch.setattr(durable, "filesystem_type", lambda device: b"")
    head, index = (f"{os.path.relpath(ws.git_dir, tmp_path)}/{name}" for name in ("HEAD", "index"))
    assert {head, index} <= bring("one")
    bring("one")
    assert not {head, index} & bring("one")
    ws.git("checkout", "-q", "-b", "next")
    assert head in bring("one")
    assert f"{os.path.relpath(ws.git_dir, tmp_path)}/worktrees/other/HEAD" in bring("other")
    assert {head, index} <= bring("one")


@pytest.mark.parametrize("place", ["main", "linked"])
def test_branch_that_head_names_since_is_synced_however_old_it_is(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made before an earlier call, which had no reason to look at it."""
    ws = three_files(tmp_path)
    ws.git("worktree", "add", "-q", "../other")
    top = ws.path if place == "main" else tmp_path / "other"
    repository = open_repository(os.fsencode(top))
    monkeypatch.setattr(durable, "_CLOCK_SLACK_NS", 50_000_000)
    monkeypatch.setattr(durable, "_clock_offset", lambda: 1)
    synced: list[bytes] = []
    monkeypatch.setattr(files, "fsync_path", synced.append)
    ws.git("branch", "topic/next")
    time.sleep(0.06)
    OthersToDisk(repository, "one").finish()
    time.sleep(0.06)
    ws.git("-C", str(top), "checkout", "-q", "topic/next")
    synced.clear()
    OthersToDisk(repository, "one").finish()
    heads = os.path.join(repository.common_dir, b"refs/heads")
    assert {heads, os.path.join(heads, b"topic"), os.path.join(heads, b"topic/next")} <= {*synced}


def test_one_sync_needs_no_directory_that_another_git_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `git gc` packs the loose objects, and removes their places, right before `sync -f` opens what it is given."""
    ws = three_files(tmp_path)
    for number in range(durable._SYNC_MANY + 1):
        ws.write(f"many/{number}", f"{number}\n")
    ws.commit()
    assert len(list((ws.git_dir / "objects").glob("??/*"))) > durable._SYNC_MANY
    sync = tmp_path / "sync"
    sync.write_text(f"#!/bin/sh\ngit -C '{ws.path}' gc -q --prune=now && exec sync \"$@\"\n")
    sync.chmod(0o755)
    monkeypatch.setattr(child, "_SYNC", (os.fspath(sync),))
    OthersToDisk(open_repository(os.fsencode(ws.path)), "test").finish()
    assert not list((ws.git_dir / "objects").glob("??/*"))


@pytest.mark.parametrize("knows", [False, True])
def test_refs_move_when_the_names_of_the_packs_are_on_the_disk(
    knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that knows a checkpoint syncs what others wrote before its own pack is there."""
    ws = three_files(tmp_path)
    first = save(os.fsencode(ws.path), SaveRequest(kind="checkpoint"))
    assert first.taken is not None and first.archive is not None
    ws.append("a.txt", "edited\n")
    known = Baseline(first.taken, first.archive, frozenset([b"a.txt"])) if knows else None
    packs = os.fsencode(ws.git_dir / "objects/pack")
    #: `pack` for a name of ours in the directory, `sync` for what makes it durable, `refs` for what relies on it.
    done: list[str] = []
    fsync_path, carry_out = files.fsync_path, RefWriter.carry_out

    def synced(path: bytes) -> None:
        done.extend(["sync"] if path == packs else ["pack"] if path.endswith(b".idx") else [])
        fsync_path(path)

    def renamed(temporary: bytes, path: bytes, data: bytes, *, mode: int, durable: bool = True) -> None:
        write_and_rename(temporary, path, data, mode=mode, durable=durable)
        done.append("pack")

    def moved(writer: RefWriter) -> None:
        done.append("refs")
        carry_out(writer)

    write_and_rename = files.write_and_rename
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: float("inf"))
    for module in (files, pack):
        monkeypatch.setattr(module, "fsync_path", synced)
    monkeypatch.setattr(pack, "write_and_rename", renamed)
    monkeypatch.setattr(RefWriter, "carry_out", moved)
    assert save(os.fsencode(ws.path), SaveRequest(known=known)).archive != first.archive
    before = done[: done.index("refs")]
    assert "pack" in before
    assert "sync" in before[len(before) - before[::-1].index("pack") :], done


@pytest.mark.parametrize("knows", [False, True])
def test_refs_move_when_what_an_agent_staged_is_on_the_disk(
    knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that knows a checkpoint begins the one sync of all, and goes on beside it."""
    ws = three_files(tmp_path)
    for number in range(9):
        ws.write(f"staged{number}", f"{number}\n")
    ws.add(".")
    first = save(os.fsencode(ws.path), SaveRequest(kind="checkpoint"))
    assert first.taken is not None and first.archive is not None
    ws.append("a.txt", "edited\n")
    known = Baseline(first.taken, first.archive, frozenset([b"a.txt"])) if knows else None
    done: list[str] = []
    carry_out, wait = RefWriter.carry_out, FilesystemSync.wait

    def waited(sync: FilesystemSync) -> None:
        wait(sync)
        done.append("sync")

    def moved(writer: RefWriter) -> None:
        done.append("refs")
        carry_out(writer)

    monkeypatch.setattr(durable, "filesystem_type", lambda device: b"ext4")
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: 0.0)
    # Nothing vouches for what was staged.
    (ws.git_dir / "gitstate/durable").unlink()
    monkeypatch.setattr(FilesystemSync, "wait", waited)
    monkeypatch.setattr(RefWriter, "carry_out", moved)
    assert save(os.fsencode(ws.path), SaveRequest(known=known)).archive != first.archive
    assert "sync" in done[: done.index("refs")], done


@pytest.mark.parametrize("at_once", [False, True])
def test_marker_goes_when_what_a_recovery_found_right_is_on_the_disk(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has synced nothing: in place, too, its files are durable before the save is over."""
    ws = three_files(tmp_path)
    ws.append("a.txt", "edited\n")
    save(os.fsencode(ws.path), SaveRequest())
    done: list[str] = []
    fsync_path, commit, wait = files.fsync_path, RefWriter.commit, FilesystemSync.wait

    def synced(path: bytes) -> None:
        done.extend(["sync"] if path == os.fsencode(ws.path / "a.txt") else [])
        fsync_path(path)

    def waited(sync: FilesystemSync) -> None:
        wait(sync)
        done.append("sync")

    def moved(writer: RefWriter, *args: Any, **more: Any) -> None:
        done.append("refs")
        commit(writer, *args, **more)

    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: 0.0 if at_once else float("inf"))
    monkeypatch.setattr(durable, "_PROVEN", (filesystem_type(os.stat(ws.path).st_dev),))
    monkeypatch.setattr(files, "fsync_path", synced)
    monkeypatch.setattr(FilesystemSync, "wait", waited)
    monkeypatch.setattr(RefWriter, "commit", moved)
    assert recover(os.fsencode(ws.path), RecoverRequest()).exit_status == 0
    assert "sync" in done[: done.index("refs")], done


@pytest.mark.parametrize("how", ["one by one", "one sync", "another file system"])
def test_places_of_files_that_were_put_or_removed_are_synced(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a file is in its directory: without it the file is not there after a power cut."""
    ws = three_files(tmp_path)
    place = ws.path / "dir"
    place.mkdir()
    synced: list[bytes] = []
    each = durable.sync_each

    def noted(paths: Iterable[bytes]) -> None:
        found = list(paths)
        synced.extend(found)
        each(found)

    monkeypatch.setattr(durable, "sync_each", noted)
    monkeypatch.setattr(durable, "_is_one_sync_best", lambda _: how != "one by one")
    if how == "another file system":
        monkeypatch.setattr(FilesToDisk, "_device", lambda *_: -1)
    FilesToDisk(open_repository(os.fsencode(ws.path)), [b"dir"]).finish([])
    assert (os.fsencode(place) in synced) == (how != "one sync")


def test_recovery_syncs_the_places_of_what_it_puts_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = three_files(tmp_path)
    ws.write("dir/new.txt", "new\n")
    assert save(os.fsencode(ws.path), SaveRequest()).result == "saved"
    ws.remove("dir/new.txt")
    changed: list[bytes] = []
    start = FilesToDisk.__init__

    def noted(self: FilesToDisk, repository: Repository, paths: Iterable[bytes] = ()) -> None:
        changed.extend(paths)
        start(self, repository, changed)

    monkeypatch.setattr(FilesToDisk, "__init__", noted)
    assert recover(os.fsencode(ws.path), RecoverRequest()).verdict == "restore"
    assert b"dir" in changed and ws.read("dir/new.txt") == b"new\n"
