"""Files and directories that may not be read, searched or written by their owner, who is not almighty."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.states import dirty
from tests.support.oracle import fingerprint
from tests.support.permissions import needs_root, why_permissions_cannot_be_tested
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

pytestmark = pytest.mark.skipif(
    why_permissions_cannot_be_tested() is not None, reason=str(why_permissions_cannot_be_tested())
)


@pytest.fixture
def owned(ws: Workspace) -> Workspace:
    dirty(ws)
    ws.without_override = True
    return ws


@needs_root
@pytest.mark.parametrize(
    "mode", [0o500, pytest.param(0o555, marks=pytest.mark.slow), pytest.param(0o577, marks=pytest.mark.slow)]
)
def test_files_come_back_into_directories_that_may_not_be_written(mode: int, owned: Workspace) -> None:
    """The directories are still there, and closed again when all is back."""
    owned.write("dd/ee/x", "untracked\n")
    owned.append("docs/guide.md", "edited\n")
    for path in ("dd/ee", "dd", "docs", "src/lib"):
        owned.chmod(path, mode)
    before = fingerprint(owned.path)
    saved_from(owned.save())
    for directory, names, files in os.walk(owned.path):
        names[:] = [name for name in names if name != ".git"]
        for name in files:
            os.unlink(os.path.join(directory, name))
    assert recovered_from(owned.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(owned.path)) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("mode", [0o500, 0o550, 0o554])
def test_directory_that_a_killed_recovery_has_opened_is_closed_by_the_next(mode: int, owned: Workspace) -> None:
    owned.write("dd/x", "untracked\n")
    owned.chmod("dd", mode)
    before = fingerprint(owned.path)
    saved_from(owned.save())
    owned.chmod("dd", mode | 0o300)
    owned.remove("dd/x")
    assert recovered_from(owned.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(owned.path)) == []


@needs_root
def test_file_comes_back_alone_into_a_directory_that_may_not_be_written(owned: Workspace) -> None:
    owned.write("dd/x", "untracked\n")
    owned.chmod("dd", 0o500)
    saved_from(owned.save())
    owned.remove("dd/x")
    run = owned.gitstate("restore", "latest", "dd/x")
    assert run.exit_status == 0, run
    assert owned.read("dd/x") == b"untracked\n"
    assert os.stat(owned.at("dd")).st_mode & 0o777 == 0o500


def test_directory_that_was_made_read_only_since_the_save_stays_as_it_is(owned: Workspace) -> None:
    """Somebody wants it so: the file is named in place of being written."""
    owned.write("dd/x", "untracked\n")
    saved_from(owned.save())
    owned.remove("dd/x")
    owned.chmod("dd", 0o500)
    run = owned.gitstate("restore", "latest", "dd/x")
    assert run.exit_status == 4 and "dd/x" in str(run), run
    assert not os.path.exists(owned.at("dd/x"))
    assert os.stat(owned.at("dd")).st_mode & 0o777 == 0o500


@needs_root
@pytest.mark.parametrize(
    "mode", [pytest.param(0o000, marks=pytest.mark.slow), pytest.param(0o100, marks=pytest.mark.slow), 0o400]
)
@pytest.mark.parametrize("path", ["docs", "dd"], ids=["tracked", "untracked"])
def test_directory_that_may_not_be_looked_into_costs_nothing_else(path: str, mode: int, owned: Workspace) -> None:
    """It is named, all else is saved, and nothing in it counts as deleted."""
    owned.write("dd/ee/x", "untracked\n")
    owned.append("docs/guide.md", "edited\n")
    owned.chmod(path, mode)
    before = fingerprint(owned.path)
    saved = saved_from(owned.save(), exits=(4,))
    assert any(name.startswith(path.encode()) for name in saved.left_out)
    base = str(saved.document["base_commit"])
    assert b"docs/" not in owned.git("diff", "--name-only", "--diff-filter=D", base, saved.wip)
    inside = {name for name in before.files if name.startswith(path.encode())}
    for name in os.listdir(owned.path):
        if name not in (".git", path):
            owned.remove(name)
    recovered_from(owned.recover())
    after = fingerprint(owned.path)
    assert before.without(inside).diff(after.without(inside)) == []
    assert {name: after.files[name] for name in inside} == {name: before.files[name] for name in inside}


def test_recover_goes_on_where_the_state_file_may_not_be_written(owned: Workspace) -> None:
    saved_from(owned.save())
    os.unlink(owned.at("active_state.json"))
    os.chmod(owned.path, 0o500)
    answer = recovered_from(owned.recover())
    assert "the state file could not be written" in answer["message"]
    assert answer["verdict"] == "restore"
    subprocess.run(answer["message"].partition("allow it with: ")[2], shell=True, check=True)
    assert owned.gitstate("begin", "task_id=T-2").exit_status == 0
    assert os.path.exists(owned.at("active_state.json"))


def test_reflog_that_may_not_be_written_is_named_with_the_command_that_mends_it(owned: Workspace) -> None:
    """As `sudo git commit` leaves it."""
    before = fingerprint(owned.path)
    log = owned.git_dir / "logs" / "HEAD"
    log.chmod(0o444)
    saved_from(owned.save())
    run = owned.recover()
    assert run.exit_status == 1 and run.json["hint"] == f"chmod -R u+rwX {log}", run
    subprocess.run(run.json["hint"], shell=True, check=True)
    recovered_from(owned.recover())
    assert before.diff(fingerprint(owned.path)) == []


def test_refs_that_may_not_be_written_are_named_with_the_command_that_mends_them(owned: Workspace) -> None:
    refs = owned.git_dir / "refs"
    refs.chmod(0o500)
    run = owned.save("--json")
    assert run.exit_status == 1 and run.json["hint"] == f"chmod -R u+rwX {refs}", run
    subprocess.run(run.json["hint"], shell=True, check=True)
    saved_from(owned.save())


def test_immutable_index_costs_no_save(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    index = os.fspath(ws.git_dir / "index")
    if subprocess.run(["chattr", "+i", index], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no file can be made immutable here: run as root, on ext4 or xfs")
    try:
        saved = ws.save("--json")
        saved_from(saved)
        assert "the index could not be exchanged" in saved.json["message"]
    finally:
        subprocess.run(["chattr", "-i", index], check=True)
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []
