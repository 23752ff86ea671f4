"""A repository of which git can't read the index, or HEAD's commit: it is saved all the same, and nothing lies."""

from __future__ import annotations

import os
import shlex
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.states import dirty
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git

Damage = Callable[[Workspace], None]


def files_of(ws: Workspace) -> dict[str, bytes]:
    """Every file and symlink of the worktree, but for the state file."""
    found = {}
    for directory, names, entries in os.walk(ws.path):
        names[:] = [name for name in names if name != ".git"]
        for name in entries:
            full = Path(directory, name)
            data = os.fsencode(os.readlink(full)) if full.is_symlink() else full.read_bytes()
            found[str(full.relative_to(ws.path))] = data
    found.pop("active_state.json", None)
    return found


def remove_files(ws: Workspace) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)


def _index(content: bytes | None) -> Damage:
    def build(ws: Workspace) -> None:
        index = ws.git_dir / "index"
        index.write_bytes(index.read_bytes()[:100] if content is None else content)

    return build


def _without_count(ws: Workspace) -> None:
    index = ws.git_dir / "index"
    data = index.read_bytes()
    index.write_bytes(data[:8] + bytes(4) + data[12:])


INDEXES = {
    "garbage": _index(b"garbage\n"),
    "empty": _index(b""),
    "zeros": _index(bytes(600)),
    "cut": _index(None),
    "without_its_count": _without_count,
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("loss", ["in_place", "wiped"])
@pytest.mark.parametrize("how", INDEXES)
def test_files_are_saved_where_the_index_is_unreadable(how: str, loss: str, ws: Workspace) -> None:
    dirty(ws)
    before = files_of(ws)
    INDEXES[how](ws)
    saved = saved_from(ws.save(), exits=(4,))
    assert "the index is unreadable" in saved.document["left_out"][0]["reason"]
    assert not saved.moved
    if loss == "wiped":
        remove_files(ws)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] == "restore"
    assert files_of(ws) == before
    assert b" M b.txt" in ws.status()


def test_person_reads_why_the_branch_was_not_moved(ws: Workspace) -> None:
    dirty(ws)
    INDEXES["garbage"](ws)
    run = ws.gitstate("save", "--task-id", "T")
    assert run.exit_status == 4
    assert "branch not moved: the index is unreadable" in run.stderr


def test_checkpoint_is_taken_where_the_index_is_unreadable(ws: Workspace) -> None:
    dirty(ws)
    INDEXES["zeros"](ws)
    assert ws.gitstate("checkpoint").exit_status == 4
    (archive,) = ws.refs("refs/gitstate/checkpoints").values()
    assert ws.git("cat-file", "blob", f"{archive}^1:b.txt") == ws.read("b.txt")


def test_recover_names_the_command_that_mends_the_index(ws: Workspace) -> None:
    INDEXES["garbage"](ws)
    answer = recovered_from(ws.recover(), exits=(4,))
    assert answer["verdict"] == "damaged"
    assert "the index is unreadable" in answer["message"]
    assert answer["hint"] in ws.gitstate("doctor").text
    subprocess.run(answer["hint"], shell=True, check=True, cwd=ws.outside)
    assert ws.status() == set()


def _object(ws: Workspace, name: str) -> Path:
    oid = ws.out("rev-parse", name)
    path = ws.common_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    return path


def _missing(name: str) -> Damage:
    def build(ws: Workspace) -> None:
        _object(ws, name).unlink()

    return build


def _emptied(name: str) -> Damage:
    def build(ws: Workspace) -> None:
        _object(ws, name).write_bytes(b"")

    return build


def _swapped(ws: Workspace) -> None:
    """The file of the commit holds another commit, in which git finds all trees."""
    data = zlib.compress(b"commit %d\0" % len(other := ws.git("cat-file", "commit", "HEAD~1")) + other)
    _object(ws, "HEAD").write_bytes(data)


def _empty_branch(ws: Workspace) -> None:
    (ws.common_dir / "refs/heads/agent/work").write_bytes(b"")


HEADS = {
    "commit_missing": _missing("HEAD"),
    "commit_empty": _emptied("HEAD"),
    "commit_swapped": _swapped,
    "tree_missing": _missing("HEAD^{tree}"),
    "tree_empty": _emptied("HEAD^{tree}"),
    "branch_empty": _empty_branch,
}


@pytest.fixture
def broken(ws: Workspace) -> Workspace:
    """A workspace whose last commit is only here, in loose objects; the one before it is on a remote too."""
    run_git(ws.outside, "clone", "-q", "--bare", "--no-local", ws.path, "remote.git")
    ws.write("fresh/file.txt", "committed last\n")
    ws.commit("last")
    dirty(ws)
    ws.append("fresh/file.txt", "and edited\n")
    return ws


def _save_broken(ws: Workspace, how: str) -> str:
    HEADS[how](ws)
    saved = saved_from(ws.save(), exits=(4,))
    assert not saved.moved
    assert "the commit of HEAD" in saved.document["left_out"][0]["reason"]
    return saved.save_id


def _damaged(ws: Workspace, what: str = "the commit of HEAD is unreadable") -> dict[str, Any]:
    answer = recovered_from(ws.recover(), exits=(4,))
    assert answer["verdict"] == "damaged", answer
    assert what in answer["message"]
    return answer


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", [how for how in HEADS if how != "branch_empty"])
def test_files_are_saved_where_head_is_unreadable(how: str, broken: Workspace) -> None:
    before = files_of(broken)
    save_id = _save_broken(broken, how)
    assert broken.refs("refs/gitstate/pending")
    answer = _damaged(broken)
    assert files_of(broken) == before, "nothing was touched"
    command = answer["hint"].split("; rm ")[0].split(", then: ")[0]
    assert "update-ref" in command
    subprocess.run(command, shell=True, check=True, cwd=broken.outside)
    remove_files(broken)
    assert broken.gitstate("restore", save_id).exit_status == 0
    assert files_of(broken) == before


def test_files_come_back_while_head_is_unreadable(broken: Workspace) -> None:
    before = files_of(broken)
    save_id = _save_broken(broken, next(iter(HEADS)))
    remove_files(broken)
    command = shlex.split(_damaged(broken)["hint"].partition("; until then, its files: ")[2])
    assert command[0] == "gitstate" and command[-2:] == ["restore", save_id]
    assert broken.gitstate(*command[1:]).exit_status == 0
    assert files_of(broken) == before


@pytest.mark.sample(5)
@pytest.mark.parametrize("loss", ["in_place", "wiped"])
@pytest.mark.parametrize("how", [how for how in HEADS if how != "branch_empty"])
def test_save_comes_back_once_head_can_be_read(how: str, loss: str, broken: Workspace) -> None:
    before = fingerprint(broken.path)
    broken.git("remote", "add", "origin", str(broken.outside / "remote.git"))
    run_git(broken.path, "push", "-q", "origin", "agent/work")
    _save_broken(broken, how)
    command = _damaged(broken)["hint"].split(", or without it")[0]
    assert "fetch --refetch" in command
    subprocess.run(command, shell=True, check=True, cwd=broken.outside)
    if loss == "wiped":
        broken.git("reset", "-q", "--hard")
        broken.git("clean", "-ffdxq")
    answer = recovered_from(broken.recover(), exits=(0, 4))
    assert answer["verdict"] == "restore"
    assert before.diff(fingerprint(broken.path)) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", ["in_place", "wiped"])
@pytest.mark.parametrize("content", [b"", bytes(41), b"no object name\n"], ids=["empty", "zeros", "garbage"])
def test_command_mends_a_branch_that_git_can_not_read(content: bytes, loss: str, broken: Workspace) -> None:
    before = fingerprint(broken.path)
    (broken.common_dir / "refs/heads/agent/work").write_bytes(content)
    saved_from(broken.save(), exits=(4,))
    if loss == "wiped":
        remove_files(broken)
    subprocess.run(_damaged(broken)["hint"].split(", then: ")[0], shell=True, check=True, cwd=broken.outside)
    assert recovered_from(broken.recover(), exits=(0, 4))["verdict"] == "restore"
    assert before.diff(fingerprint(broken.path)) == []


@pytest.mark.parametrize("content", [b"", b"no object name\n"], ids=["empty", "garbage"])
def test_command_mends_the_branch_of_a_repository_without_commits(content: bytes, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "-b", "main", "repo")
    ws = Workspace(tmp_path / "repo", tmp_path)
    (ws.git_dir / "refs/heads/main").write_bytes(content)
    ws.write("staged.txt", "staged\n")
    ws.git("add", "staged.txt")
    ws.write("untracked.txt", "untracked\n")
    before = files_of(ws)
    saved_from(ws.save(), exits=(4,))
    remove_files(ws)
    subprocess.run(_damaged(ws)["hint"].split(", then: ")[0], shell=True, check=True, cwd=tmp_path)
    assert recovered_from(ws.recover(), exits=(0, 4))["verdict"] == "restore"
    assert files_of(ws) == before
    assert ws.status() == {b"A  staged.txt", b"?? untracked.txt"}


def test_save_holds_a_directory_of_head_that_was_missing(broken: Workspace) -> None:
    """What is staged still names its files: the directory is made anew, and HEAD can be read again."""
    tree = broken.out("rev-parse", "HEAD:fresh")
    _missing("HEAD:fresh")(broken)
    saved_from(broken.save(), exits=(4,))
    assert broken.out("cat-file", "-t", tree) == "tree"
    assert recovered_from(broken.recover())["verdict"] == "restore"


def test_doctor_names_an_unreadable_head(broken: Workspace) -> None:
    HEADS["tree_missing"](broken)
    run = broken.gitstate("doctor")
    assert run.exit_status == 1 or run.exit_status == 4
    assert f"update-ref refs/heads/agent/work {broken.out('rev-parse', 'HEAD~1')}" in run.text


def test_context_alone_is_saved_where_git_can_read_nothing(broken: Workspace) -> None:
    """The user's own configuration makes `git status` fail, and HEAD can't be read."""
    HEADS["commit_missing"](broken)
    broken.git("config", "--global", "status.showUntrackedFiles", "perhaps")
    saved = saved_from(broken.save(), exits=(4,))
    assert "no file could be read" in saved.document["left_out"][0]["reason"]
    archive = saved.document["archive"]
    assert b'"T-1"' in broken.git("cat-file", "blob", f"{archive}:context.json")


def test_path_in_a_hint_is_quoted(ws: Workspace) -> None:
    INDEXES["garbage"](ws)
    assert shlex.quote(str(ws.git_dir / "index")) in recovered_from(ws.recover(), exits=(4,))["hint"]


def _packed_refs_out_of_order(ws: Workspace) -> None:
    """As a program writes them that does not know what the first line promises: git looks for a ref by halving."""
    ws.git("pack-refs", "--all")
    packed = ws.git_dir / "packed-refs"
    first, *lines = packed.read_text().splitlines(keepends=True)
    assert "sorted" in first.split()
    refs = [line for line in lines if not line.startswith("^")]
    packed.write_text(first + "".join(reversed(refs)))
    assert ws.git("rev-parse", "-q", "--verify", "HEAD", check=False) == b"", "git takes the branch for unborn"


@pytest.mark.parametrize("loss", ["in_place", "wiped"])
def test_packed_refs_that_are_not_sorted(loss: str, ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    _packed_refs_out_of_order(ws)
    saved = saved_from(ws.save(), exits=(4,))
    assert "which is not sorted" in saved.document["left_out"][0]["reason"]
    assert not saved.moved
    if loss == "wiped":
        remove_files(ws)
    hint = _damaged(ws, "packed-refs is not sorted")["hint"]
    assert hint.split(", then: ")[0] in ws.gitstate("doctor").text
    subprocess.run(hint.split(", then: ")[0], shell=True, check=True, cwd=ws.outside)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_packed_refs_that_claim_no_order_are_no_damage(ws: Workspace) -> None:
    dirty(ws)
    _packed_refs_out_of_order(ws)
    packed = ws.git_dir / "packed-refs"
    packed.write_text(packed.read_text().replace(" sorted", "", 1))
    assert saved_from(ws.save()).moved
    assert recovered_from(ws.recover())["verdict"] == "restore"
