"""Tracked files that the save did not change, and that were edited after it: `recover` keeps and names them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.stories.test_conversions import CONVERSIONS
from tests.support.recovering import recovered_from
from tests.support.workspace import Workspace


def _edited(ws: Workspace) -> None:
    ws.write("b.txt", "edited since\n")


def _of_the_same_size(ws: Workspace) -> None:
    ws.write("b.txt", ws.read("b.txt").swapcase())


def _made_executable(ws: Workspace) -> None:
    ws.chmod("b.txt", 0o755)


def _symlink_in_its_place(ws: Workspace) -> None:
    ws.remove("b.txt")
    ws.symlink("elsewhere", "b.txt")


def _directory_in_its_place(ws: Workspace) -> None:
    ws.remove("b.txt")
    ws.write("b.txt/inside", "since\n")


EDITS = [_edited, _of_the_same_size, _made_executable, _symlink_in_its_place, _directory_in_its_place]
edits = pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__.strip("_"))


def _in_place(ws: Workspace) -> None:
    pass


def _wiped_to_the_base(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-fdq")


def _wiped_to_the_tip(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdq")


LOSSES = [_in_place, _wiped_to_the_base, _wiped_to_the_tip]
losses = pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__.strip("_"))


def named(item: dict[str, list[dict[str, str]]], key: str) -> list[str]:
    return [path["path"] for path in item[key]]


@pytest.mark.sample(5)
@losses
@edits
def test_it_is_kept_and_named(
    ws: Workspace, edit: Callable[[Workspace], None], lose: Callable[[Workspace], None]
) -> None:
    ws.write("a.txt", "saved\n")
    ws.write("new.txt", "saved\n")
    ws.save()
    lose(ws)
    edit(ws)
    before = ws.out("status", "--porcelain", "--", "b.txt")
    foreseen = recovered_from(ws.recover("--dry-run"))
    item = recovered_from(ws.recover())
    for told in (foreseen, item):
        assert (told["verdict"], named(told, "kept")) == ("changed", ["b.txt"]), told
    assert ws.out("status", "--porcelain", "--", "b.txt") == before != ""
    assert ws.read("a.txt") == ws.read("new.txt") == b"saved\n"
    assert "b.txt" in item["briefing"]


def test_dry_run_names_what_is_gone(ws: Workspace) -> None:
    ws.write("a.txt", "saved\n")
    ws.save()
    ws.remove("b.txt")
    for options in (["--dry-run"], []):
        assert named(recovered_from(ws.recover(*options)), "restored") == ["b.txt"]


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=" ".join)
def test_dry_run_with_a_torn_index_names_what_the_save_changed(options: tuple[str, ...], ws: Workspace) -> None:
    """Which other files were edited nobody can tell then, and a recovery that is only tried must not fail of it."""
    base = ws.out("rev-parse", "HEAD")
    ws.write("a.txt", "saved\n")
    ws.save()
    ws.git("reset", "-q", "--hard", base)
    _edited(ws)
    (ws.git_dir / "index").write_bytes(b"DIRCgarbage")
    assert named(recovered_from(ws.recover("--dry-run", *options)), "restored") == ["a.txt"]
    assert named(recovered_from(ws.recover(*options)), "restored") == ["a.txt", *(["b.txt"] if options else [])]


@losses
def test_the_saved_version_wins_with_overwrite(ws: Workspace, lose: Callable[[Workspace], None]) -> None:
    was = ws.read("b.txt")
    ws.write("a.txt", "saved\n")
    ws.save()
    lose(ws)
    _edited(ws)
    assert "b.txt" in named(recovered_from(ws.recover("--dry-run", "--overwrite")), "restored")
    item = recovered_from(ws.recover("--overwrite"))
    assert item["verdict"] == "restore" and "b.txt" in named(item, "restored"), item
    assert ws.read("b.txt") == was and ws.status() == {b" M a.txt"}
    for content in (b"edited since\n", was):
        assert ws.gitstate("undo").exit_status == 0
        assert ws.read("b.txt") == content


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", CONVERSIONS)
def test_files_that_git_wrote_anew_are_not_named(ws: Workspace, name: str) -> None:
    """Their times tell nothing any more."""
    conversion = CONVERSIONS[name]
    for key, value in conversion.settings:
        ws.config(key, value)
    ws.write(".gitattributes", f"/x.txt {conversion.attribute}\n")
    ws.write("x.txt", conversion.versions[0])
    ws.commit("converted")
    ws.remove("x.txt")
    ws.git("checkout", "--", "x.txt")
    ws.write("a.txt", "saved\n")
    ws.save()
    for path in ("x.txt", "b.txt"):
        ws.remove(path)
    ws.git("checkout", "--", "x.txt", "b.txt")
    assert recovered_from(ws.recover())["verdict"] == "restore"


def test_converted_file_that_was_edited_is_overwritten_as_git_writes_it(ws: Workspace) -> None:
    ws.write(".gitattributes", "/x.txt text eol=crlf\n")
    ws.write("x.txt", "one\r\n")
    ws.commit("converted")
    ws.write("a.txt", "saved\n")
    ws.save()
    ws.write("x.txt", "two\r\n")
    recovered_from(ws.recover("--overwrite"))
    assert ws.read("x.txt") == b"one\r\n" and ws.status() == {b" M a.txt"}


@pytest.mark.parametrize("options", [["--dry-run"], ["--dry-run", "--overwrite"]], ids=" ".join)
def test_dry_run_writes_no_index(options: list[str], ws: Workspace) -> None:
    """Git refreshes the one that it compares with, where it may."""
    ws.write("a.txt", "work\n")
    assert ws.save().exit_status == 0
    # Content as in the index, other times.
    os.utime(ws.path / "b.txt", (1, 1))
    before = (ws.git_dir / "index").stat()
    ws.recover(*options)
    after = (ws.git_dir / "index").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
