"""Work that could not be saved or recovered is reported, and can be recovered later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.oracle import fingerprint
from tests.support.patched import patched, patient
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.repositories import three_files
from tests.support.small import done, left_out, recover, save
from tests.support.workspace import Run, Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    return three_files(tmp_path)


def test_unwritable_path_is_reported_and_stays_pending(ws: Workspace) -> None:
    if reason := why_permissions_cannot_be_tested():
        pytest.skip(reason)
    ws.without_override = True
    ws.write("d/x", "dd\n")
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.chmod("d", 0o555)
    try:
        run = ws.recover()
    finally:
        ws.chmod("d", 0o755)
    assert run.exit_status in (1, 4), run
    assert "d/x" in left_out_of_recover(run), run
    recover(ws)
    assert ws.read("d/x") == b"dd\n"


def left_out_of_recover(run: Run) -> set[str]:
    return {item["path"] for one in run.json["workspaces"] for item in one["left_out"]}


def test_foreign_git_directory_is_reported_as_skipped(ws: Workspace) -> None:
    ws.write("x/.git/file", "data\n")
    ws.write("x/a", "a\n")
    run = done(ws.save(), 4)
    assert left_out(run)["x/.git"], run


def test_repository_inside_a_tracked_directory_is_saved(ws: Workspace) -> None:
    inner = Workspace(ws.path / "d", ws.outside)
    inner.git("init", "-q")
    inner.add("x")
    inner.commit("inner")
    ws.write("d/x", "d1\n")
    run = done(ws.save())
    manifest = ws.git("cat-file", "blob", run.json["archive"] + ":manifest.json")
    assert b'"path":"d"' in manifest.replace(b" ", b""), (run, manifest)
    shutil.rmtree(ws.path / "d" / ".git")
    ws.write("d/x", "x0\n")
    ws.recover()
    assert ws.read("d/x") == b"d1\n"


def test_files_in_an_absent_submodule_come_back(ws: Workspace) -> None:
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', 'HEAD')},sub")
    ws.git("commit", "-q", "-m", "sub")
    ws.write("sub/f", "precious\n")
    ws.write("a", "a1\n")
    run = done(ws.save())
    assert not left_out(run), run
    ws.remove("sub")
    recover(ws)
    assert ws.read("sub/f") == b"precious\n"


def test_restore_takes_named_paths(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save_id = save(ws)
    recover(ws)
    ws.remove("d")
    done(ws.gitstate("restore", save_id, "d"))
    assert ws.read("d/x") == b"x0\n"
    ws.remove("a")
    done(ws.gitstate("restore", save_id, "a"))
    assert ws.read("a") == b"a1\n"
    assert ws.gitstate("restore", save_id, "nope", "a").exit_status not in (0, 3)


def test_incomplete_save_is_never_called_clean(ws: Workspace) -> None:
    ws.write("a", "a1\n" * 30_000)
    run = done(patient(ws, "save", "--json", "--deadline", "0.000001"), 4)
    assert left_out(run) == {"a": True} and "clean" not in run.json["message"]
    ws.git("checkout", "--", "a")
    assert "clean" in done(ws.gitstate("save", "--json")).json["message"]


NO_ROOM = """\
mkdir = os.mkdir
def full(path, *mode, **where):
    if path == b"inner":
        raise OSError(28, "No space left on device")
    mkdir(path, *mode, **where)
os.mkdir = full
"""


def test_empty_directory_that_cannot_be_created_is_reported(ws: Workspace) -> None:
    ws.mkdir("hollow/inner")
    before = fingerprint(ws.path)
    save(ws)
    shutil.rmtree(ws.path / "hollow")
    run = patched(ws, NO_ROOM, "recover")
    assert run.returncode not in (0, 3) and b"hollow/inner: could not be written: No space" in run.stderr, run
    assert ws.refs("refs/gitstate/pending"), "it waits on"
    recover(ws)
    assert before.diff(fingerprint(ws.path)) == []


KEEPS_MODES = """\
fchmod = os.fchmod
def refuses(fd, mode):
    if mode == 0o711:
        raise OSError(30, "Read-only file system")
    fchmod(fd, mode)
os.fchmod = refuses
"""


def test_directory_permissions_that_cannot_be_set_are_reported(ws: Workspace) -> None:
    ws.mkdir("hollow", 0o711)
    save(ws)
    (ws.path / "hollow").rmdir()
    run = patched(ws, KEEPS_MODES, "recover")
    assert b"hollow: permissions could not be set: Read-only" in run.stderr, run


def test_file_in_place_of_a_directory_keeps_its_permissions(ws: Workspace) -> None:
    ws.mkdir("hollow", 0o711)
    save(ws)
    (ws.path / "hollow").rmdir()
    ws.write("hollow", "newer\n")
    (ws.path / "hollow").chmod(0o755)
    ws.recover()
    assert (ws.path / "hollow").read_text() == "newer\n"
    assert (ws.path / "hollow").stat().st_mode & 0o777 == 0o755


STAYS = """\
from gitstate.system import files
files.remove_tree = lambda path: None
"""


def test_next_command_removes_leftovers_of_a_failed_cleanup(ws: Workspace) -> None:
    ws.write("u", "u\n")
    save(ws)
    ws.remove("a")
    assert patched(ws, STAYS, "recover").returncode == 0
    left = ws.git_dir / "gitstate" / "checkout"
    assert left.exists() and (ws.path / "a").exists()
    assert recover(ws).json["workspaces"][0]["verdict"] == "recovered"
    assert not left.exists() and not (ws.git_dir / "gitstate" / "journal").exists()
