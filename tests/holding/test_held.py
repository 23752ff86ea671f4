"""Which versions of which files are held, and until when."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitstate.holding import held
from gitstate.holding.held import Gone, HeldFiles

if TYPE_CHECKING:
    from gitstate.holding.held import Layer


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path


def files_of(top: Path, most: int = 100) -> HeldFiles:
    return HeldFiles(os.fsencode(top), most)


def write(files: HeldFiles, top: Path, name: str, text: str) -> None:
    """Write a file anew, as `git checkout` does, with the events of it."""
    path = top / name
    if path.exists():
        path.unlink()
        files.unlinked(os.fsencode(name))
    path.write_text(text)
    files.see(os.fsencode(name))


def replace(files: HeldFiles, top: Path, name: str, text: str) -> None:
    (top / "tmp").write_text(text)
    os.replace(top / "tmp", top / name)
    files.see(os.fsencode(name))


def remove(files: HeldFiles, top: Path, name: str) -> None:
    (top / name).unlink()
    files.unlinked(os.fsencode(name))


def content(gone: Gone) -> str:
    with open(gone.link, encoding="ascii") as file:
        return file.read()


def told(layers: list[Layer]) -> list[dict[str, str]]:
    return [{os.fsdecode(path): content(gone) for path, gone in layer.items()} for layer in layers]


def test_removed_file_is_given_until_it_is_released(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    remove(files, top, "a")
    assert told(files.take()[0]) == [{"a": "one"}]
    layers, epoch = files.take()
    assert told(layers) == [{"a": "one"}]
    files.release(epoch)
    assert files.take()[0] == [] and files.count == 0


def test_file_that_is_there_is_not_given_and_its_descriptor_is_closed(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    layers, epoch = files.take()
    assert layers == [] and files.count == 1
    files.release(epoch)
    assert files.count == 0


def test_file_that_goes_between_question_and_release_is_given_next(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    _, epoch = files.take()
    remove(files, top, "a")
    files.release(epoch)
    assert told(files.take()[0]) == [{"a": "one"}]


def test_file_that_changes_after_the_question_stays_held(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    _, epoch = files.take()
    with (top / "a").open("a") as file:
        file.write(" two")
    files.see(b"a", is_new=False)
    files.release(epoch)
    remove(files, top, "a")
    assert told(files.take()[0]) == [{"a": "one two"}]


def test_path_that_the_checkpoint_lacks_stays_held(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    _, epoch = files.take()
    files.release(epoch, {b"a"})
    remove(files, top, "a")
    assert told(files.take()[0]) == [{"a": "one"}]


def test_destroyed_version_is_let_go_though_the_checkpoint_lacks_the_path(top: Path) -> None:
    """The checkpoint has what was given to it; only of what is there now it may have been refused."""
    files = files_of(top)
    write(files, top, "a", "one")
    write(files, top, "a", "two")
    layers, epoch = files.take()
    assert told(layers) == [{"a": "one"}]
    files.release(epoch, {b"a"})
    assert files.take()[0] == []
    remove(files, top, "a")
    layers, epoch = files.take()
    assert told(layers) == [{"a": "two"}]
    files.release(epoch, {b"a"})
    assert files.take()[0] == [] and files.count == 0


def test_destroyed_version_that_the_checkpoint_has_no_room_for_stays_held(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    remove(files, top, "a")
    _, epoch = files.take()
    files.release(epoch, missed={b"a"})
    assert told(files.take()[0]) == [{"a": "one"}]


def test_replaced_file_is_given_as_it_last_was(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    replace(files, top, "a", "two")
    replace(files, top, "a", "three")
    assert told(files.take()[0]) == [{"a": "two"}]


def test_each_destruction_of_one_path_is_a_layer(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "precious")
    write(files, top, "a", "base")
    write(files, top, "a", "more")
    remove(files, top, "a")
    assert told(files.take()[0]) == [{"a": "more"}, {"a": "base"}, {"a": "precious"}]


def test_file_that_was_moved_is_held_at_its_new_path_alone(top: Path) -> None:
    files = files_of(top)
    write(files, top, "a", "one")
    os.rename(top / "a", top / "b")
    files.moved(b"a", b"b")
    files.see(b"b")
    assert files.take()[0] == [] and files.count == 1
    remove(files, top, "b")
    assert told(files.take()[0]) == [{"b": "one"}]


def test_directory_that_was_moved_takes_its_files_with_it(top: Path) -> None:
    files = files_of(top)
    (top / "d").mkdir()
    write(files, top, "d/a", "one")
    os.rename(top / "d", top / "e")
    files.moved_below(b"d", b"e")
    assert files.take()[0] == []
    remove(files, top, "e/a")
    assert told(files.take()[0]) == [{"e/a": "one"}]


def test_late_events_do_not_mistake_a_new_file_for_the_old_one(top: Path) -> None:
    """The file was removed and made again before the first event was read."""
    files = files_of(top)
    (top / "a").write_text("two")
    files.see(b"a")
    files.unlinked(b"a")
    files.see(b"a")
    assert files.take()[0] == []


def test_late_events_do_not_move_a_new_file_over_what_was_destroyed(top: Path) -> None:
    """Another file was made at the old path before the first event of the move was read."""
    files = files_of(top)
    write(files, top, "a", "precious")
    (top / "o").write_text("first")
    os.replace(top / "o", top / "a")
    (top / "o").write_text("second")
    files.see(b"o")
    files.moved(b"o", b"a")
    files.see(b"a")
    assert told(files.take()[0]) == [{"a": "precious"}]


def test_no_more_descriptors_than_allowed(top: Path) -> None:
    files = files_of(top, most=10)
    for number in range(50):
        write(files, top, str(number), "x")
    assert files.count == 10 and files.dropped == 40
    for number in range(50):
        remove(files, top, str(number))
    assert sorted(told(files.take()[0])[0]) == [str(number) for number in range(40, 50)]


def test_destroyed_files_take_no_more_room_than_allowed(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MOST_BYTES", 100)
    files = files_of(top)
    for number in range(5):
        write(files, top, str(number), "x" * 40)
        remove(files, top, str(number))
    assert sorted(told(files.take()[0])[0]) == ["3", "4"]


def test_file_that_grew_is_let_go_when_it_is_removed(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of gigabytes that somebody deletes for its room."""
    monkeypatch.setattr(held, "LARGEST", 100)
    files = files_of(top)
    write(files, top, "kept", "x" * 40)
    write(files, top, "log", "x")
    with open(top / "log", "a", encoding="ascii") as log:
        log.write("x" * 1000)
    remove(files, top, "kept")
    remove(files, top, "log")
    assert told(files.take()[0]) == [{"kept": "x" * 40}]
    assert (files.count, files.gone_bytes, files.dropped) == (1, 40, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of one megabyte: only root can")
def test_no_more_is_held_than_is_free(top: Path) -> None:
    """Whoever deletes files on a full disk needs their room at once."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", top], check=True)
    try:
        files = files_of(top)
        for number in range(8):
            write(files, top, str(number), "x" * 100_000)
        for number in range(3):
            remove(files, top, str(number))
        assert files.gone_bytes <= os.statvfs(top).f_bavail * os.statvfs(top).f_frsize
        assert files.dropped >= 1
        files.close()
        assert os.statvfs(top).f_bavail * os.statvfs(top).f_frsize >= 500_000
    finally:
        subprocess.run(["umount", top], check=True)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "large"])
def test_only_small_regular_files_are_held(top: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LARGEST", 10)
    files = files_of(top)
    if kind == "fifo":
        os.mkfifo(top / "a")
    elif kind == "link":
        (top / "a").symlink_to("elsewhere")
    elif kind == "directory":
        (top / "a").mkdir()
    else:
        (top / "a").write_text("x" * 11)
    files.see(b"a")
    assert files.count == 0


def test_ignored_directory_is_let_go(top: Path) -> None:
    files = files_of(top)
    (top / "d").mkdir()
    write(files, top, "d/a", "one")
    files.forget_below(b"d")
    assert files.count == 0 and files.take()[0] == []


def test_no_descriptor_leaks(top: Path) -> None:
    files = files_of(top)
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(20):
        for number in range(20):
            write(files, top, str(number), str(turn))
            replace(files, top, str(number), "new")
        for number in range(10):
            remove(files, top, str(number))
        files.release(files.take()[1])
    files.release(files.take()[1])
    assert files.count == 0 and len(os.listdir("/proc/self/fd")) == before
