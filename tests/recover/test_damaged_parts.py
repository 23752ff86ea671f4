"""One object of a save is damaged: what it held comes from elsewhere, or the user hears of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gitstate.errors import GitError
from gitstate.git.opening import open_repository
from gitstate.objects.reader import ObjectReader
from gitstate.recover.facts import gather
from gitstate.recover.unreadable import with_unreadable
from tests.support.repositories import three_files, unpack
from tests.support.small import done
from tests.support.workspace import Workspace

PENDING, SAVES = "refs/gitstate/pending/", "refs/gitstate/saves/"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository whose pending save holds two edits, one of them staged before; each of its objects is a file."""
    ws = three_files(tmp_path)
    ws.write("a", "a1\n")
    ws.write("b", "staged\n")
    ws.git("add", "b")
    ws.write("b", "unstaged\n")
    done(ws.save(task_id="T-7"))
    unpack(ws, tmp_path / "packs")
    return ws


def archive(ws: Workspace) -> str:
    (found,) = ws.refs(PENDING).values()
    return found


def place(ws: Workspace, name: str) -> Path:
    oid = ws.out("rev-parse", name)
    return ws.git_dir / "objects" / oid[:2] / oid[2:]


def replace(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def forget_context(ws: Workspace) -> None:
    """Nothing but the save tells of the task."""
    for path in (ws.path / "active_state.json", ws.git_dir / "gitstate" / "context.json"):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("content", [None, b"no object"], ids=["missing", "garbage"])
def test_damaged_context_is_taken_from_the_note(content: bytes | None, ws: Workspace) -> None:
    replace(place(ws, f"{archive(ws)}:context.json"), content)
    forget_context(ws)
    (found,) = done(ws.recover()).json["workspaces"]
    assert found["context"]["task_id"] == "T-7"
    assert "the context of the save is damaged, and was taken from its note" in found["message"]
    assert ws.path.joinpath("a").read_bytes() == b"a1\n"


def test_context_that_is_lost_is_told(ws: Workspace) -> None:
    replace(place(ws, f"{archive(ws)}:context.json"), None)
    ws.git("update-ref", "-d", "refs/notes/gitstate")
    forget_context(ws)
    (found,) = done(ws.recover()).json["workspaces"]
    assert found["context"]["task_id"] is None
    assert "which task it was on can't be told" in found["message"]


@pytest.mark.parametrize("part", ["^{commit}", "^{tree}", ":manifest.json"])
def test_object_of_an_earlier_save_in_its_place_is_no_save(part: str, ws: Workspace) -> None:
    """Git reads what the file holds, and does not compare it with its name."""
    newer = place(ws, f"{archive(ws)}{part}")
    older = newer.read_bytes()
    ws.write("a", "a2\n")
    done(ws.save(task_id="T-8"))
    packs = ws.git_dir / "objects" / "pack"
    for pack in list(packs.glob("*.pack")):
        content = pack.read_bytes()
        shutil.rmtree(packs)
        packs.mkdir()
        ws.git("unpack-objects", "-q", stdin=content)
    replace(place(ws, f"{archive(ws)}{part}"), older)
    run = ws.recover()
    assert run.exit_status == 4 and run.json["workspaces"][0]["verdict"] == "corrupt", run
    assert ws.refs(PENDING), "it waits on"


@pytest.mark.parametrize("content", [None, b"no object"], ids=["missing", "garbage"])
def test_damaged_index_is_rebuilt_from_what_was_staged(content: bytes | None, ws: Workspace) -> None:
    replace(place(ws, f"{archive(ws)}:index"), content)
    for kept in (ws.git_dir / "gitstate").glob("index.*"):
        kept.unlink()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    run = ws.recover()
    (found,) = run.json["workspaces"]
    assert run.exit_status == 4 and found["verdict"] == "restore", run
    assert "its index is damaged" in run.stderr
    assert ws.path.joinpath("a").read_bytes() == b"a1\n" and ws.out("show", ":b") == "staged"


@pytest.mark.sample(2)
@pytest.mark.parametrize("content", [None, b"no object"], ids=["missing", "garbage"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_file_that_can_not_be_read_costs_no_other(name: str, content: bytes | None, ws: Workspace) -> None:
    """Whether it is the first of them or the last."""
    damaged = place(ws, f"{archive(ws)}^1:{name}")
    whole = damaged.read_bytes()
    replace(damaged, content)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    run = ws.recover()
    assert run.exit_status == 4 and run.stderr.count(f"{name}: could not be restored: object ") == 1, run
    other = {"a": "b", "b": "a"}[name]
    assert ws.path.joinpath(other).read_text() == {"a": "a1\n", "b": "unstaged\n"}[other]
    assert ws.refs(PENDING), "it waits on"
    assert not list((ws.git_dir / "gitstate").glob("*tmp*"))
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(whole)
    done(ws.recover())
    assert ws.path.joinpath("b").read_text() == "unstaged\n" and ws.path.joinpath("a").read_text() == "a1\n"


DAMAGE = {"missing": None, "garbage": b"no object", "empty": b""}


@pytest.mark.sample(3)
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("tree", ["HEAD^{tree}", "HEAD~1^{tree}"], ids=["the WIP tree", "the staged tree"])
def test_save_whose_tree_git_can_not_read_is_corrupt(tree: str, content: bytes | None, ws: Workspace) -> None:
    """Where one of two trees is missing git says nothing of it, and ends with status 0."""
    oid, pending = ws.out("rev-parse", tree), ws.refs(PENDING)
    replace(place(ws, tree), content)
    before = ws.git_dir.joinpath("index").read_bytes()
    run = ws.recover()
    (found,) = run.json["workspaces"]
    assert (run.exit_status, found["verdict"]) == (4, "corrupt")
    assert f"is unreadable: its tree {oid[:12]} is missing or damaged" in found["message"]
    assert "to discard the unreadable save" in found["hint"]
    assert ws.refs(PENDING) == pending
    assert (ws.read("b"), ws.git_dir.joinpath("index").read_bytes()) == (b"unstaged\n", before)


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_wip_commit_that_git_can_not_read_is_told_with_the_way_out(content: bytes | None, ws: Workspace) -> None:
    replace(place(ws, "HEAD"), content)
    run = ws.recover()
    (found,) = run.json["workspaces"]
    assert (run.exit_status, found["verdict"]) == (4, "corrupt")
    assert "the WIP commit" in found["message"] and "the commit of HEAD is unreadable" in found["message"]
    assert "update-ref refs/heads/" in found["hint"]


@pytest.mark.sample(6)
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("part", ["^{commit}", "^{tree}", ":manifest.json"])
def test_difference_of_a_save_that_is_damaged_is_one_line(part: str, content: bytes | None, ws: Workspace) -> None:
    found = ws.git("for-each-ref", "--format=%(refname:lstrip=-1)", "refs/gitstate/saves").decode().split()
    replace(place(ws, f"{archive(ws)}{part}"), content)
    run = ws.gitstate("diff", found[0])
    assert run.exit_status == 4, run
    assert "unreadable" in run.stderr or "can't be compared" in run.stderr


@pytest.mark.sample(5)
@pytest.mark.parametrize("content", [None, b"no object"], ids=["missing", "garbage"])
@pytest.mark.parametrize("tree", ["^1^1^1^{tree}", "^1^1^{tree}", "^1^{tree}"], ids=["base", "staged", "work"])
def test_tree_that_can_not_be_read_stops_the_recovery(tree: str, content: bytes | None, ws: Workspace) -> None:
    """Git passes over it without a word where it compares several pairs of trees."""
    damaged = place(ws, f"{archive(ws)}{tree}")
    whole = damaged.read_bytes()
    replace(damaged, content)
    run = ws.recover()
    assert run.exit_status in (1, 4) and "a bug in gitstate" not in run.stderr, run
    assert ws.refs(PENDING), "it waits on"
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(whole)
    done(ws.recover())
    assert ws.path.joinpath("b").read_text() == "unstaged\n" and ws.out("show", ":b") == "staged"


@pytest.fixture
def deep(tmp_path: Path) -> Workspace:
    """The same, where what was edited and staged is in a directory; and the save before it."""
    ws = three_files(tmp_path)
    ws.write("a", "a1\n")
    done(ws.save(task_id="T-6"))
    done(ws.recover())
    ws.write("d/x", "staged\n")
    ws.git("add", "d")
    ws.write("d/x", "unstaged\n")
    done(ws.save(task_id="T-7"))
    unpack(ws, tmp_path / "packs")
    return ws


@pytest.mark.sample(7)
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("tree", ["^1:d", "^1^1:d"], ids=["the WIP tree", "the staged tree"])
@pytest.mark.parametrize("wiped", [False, True], ids=["in place", "wiped to the base"])
def test_save_with_a_directory_that_git_can_not_read_is_corrupt(
    wiped: bool, tree: str, content: bytes | None, deep: Workspace
) -> None:
    """Git names a tree that no archive names."""
    newest, wip = archive(deep), deep.out("rev-parse", "HEAD")
    (save_id,) = deep.out("for-each-ref", "--format=%(refname:lstrip=-1)", f"--points-at={newest}", SAVES).split()
    damaged = place(deep, newest + tree)
    whole = damaged.read_bytes()
    if wiped:
        deep.git("reset", "-q", "--hard", "HEAD~2")
    replace(damaged, content)
    run = deep.recover()
    (found,) = run.json["workspaces"]
    assert (run.exit_status, found["verdict"]) == (4, "corrupt"), run
    part = f"the save {save_id} is unreadable: its tree {damaged.parent.name}{damaged.name[:10]} (d/) is missing"
    rest = f" checkout {wip[:12]} -- PATH…"
    assert part in found["message"] and rest in found["hint"] and "to discard the unreadable save" in found["hint"]
    assert deep.git("show", f"{wip}:a") == b"a1\n"
    for paths in ((), ("d/x",), ("a",)):
        told = deep.gitstate("restore", save_id, *paths)
        assert told.exit_status == 4 and part in told.stderr and rest in told.stderr, told
    assert deep.refs(PENDING), "it waits on"
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(whole)
    done(deep.recover())
    assert deep.read("d/x") == b"unstaged\n" and deep.out("show", ":d/x") == "staged"


@pytest.mark.sample(5)
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("tree", ["^{tree}", ":d"], ids=["top", "directory"])
def test_save_whose_base_git_can_not_read_is_not_to_be_discarded(
    tree: str, content: bytes | None, deep: Workspace
) -> None:
    """All that was worked on is in the save."""
    wip, base = deep.out("rev-parse", "HEAD"), deep.out("rev-parse", "HEAD~2")
    damaged = place(deep, f"{base}{tree}")
    whole = damaged.read_bytes()
    replace(damaged, content)
    run = deep.recover()
    (found,) = run.json["workspaces"]
    assert (run.exit_status, found["verdict"]) == (4, "corrupt"), run
    assert "can't be compared: tree" in found["message"] and f"of the commit {base} is missing" in found["message"]
    assert "discard" not in found["hint"]
    deep.write("d/x", "lost\n")
    deep.git("checkout", wip[:12], "--", "d/x")
    assert deep.read("d/x") == b"unstaged\n"
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(whole)
    done(deep.recover())


@pytest.mark.sample(6)
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("tree", ["^1:d", "^1^1:d", "^1^{tree}"], ids=["WIP directory", "staged directory", "WIP tree"])
def test_new_save_does_not_take_over_what_git_can_not_read(tree: str, content: bytes | None, deep: Workspace) -> None:
    """Its trees would be the same ones, and nothing of it would come back."""
    newest = archive(deep)
    deep.git("reset", "-q", "--hard", "HEAD~2")
    replace(place(deep, newest + tree), content)
    saved = done(deep.save(task_id="T-8")).json
    assert saved["result"] == "saved" and "the pending save is unreadable" in saved["message"], saved
    (found,) = done(deep.recover()).json["workspaces"]
    assert found["context"]["task_id"] == "T-8"
    assert newest in deep.refs(SAVES).values(), "what is left of it stays"


def test_undo_of_a_save_that_is_damaged_says_which(deep: Workspace) -> None:
    wip = deep.out("rev-parse", "HEAD")
    done(deep.recover())
    deep.write("d/x", "edited\n")
    done(deep.gitstate("restore", "latest", "--overwrite", "d/x"))
    replace(place(deep, f"{wip}:d"), None)
    run = deep.gitstate("undo")
    assert run.exit_status == 4 and "is unreadable: its tree" in run.stderr and "(d/)" in run.stderr, run
    assert deep.read("d/x") == b"unstaged\n"


def test_patch_of_a_damaged_save_costs_no_other(deep: Workspace) -> None:
    (newest,) = deep.refs(PENDING).values()
    replace(place(deep, f"{newest}^1:d"), None)
    run = deep.gitstate("log", "--patch")
    assert run.exit_status == 4 and run.stderr.count("the save can't be compared") == 1, run
    assert b"+a1" in run.stdout
    as_json = deep.gitstate("--json", "log", "--patch")
    assert as_json.exit_status == 4 and [("patch" in save) for save in as_json.json["saves"]].count(False) == 1


@pytest.mark.parametrize(
    ("said", "blamed"), [("fatal: loose object {tree} is corrupt", True), ("fatal: Out of memory", False)]
)
@pytest.mark.parametrize("is_there", [False, True])
def test_save_is_called_unreadable_only_for_what_the_error_is_about(
    said: str, blamed: bool, is_there: bool, ws: Workspace
) -> None:
    """Where git fails for another reason nobody may be told how to discard the save."""
    repository = open_repository(os.fsencode(ws.path))
    with ObjectReader(repository.git) as reader:
        facts = gather(repository, reader)
    tree = facts.saves[0].wip_tree
    if not is_there:
        replace(place(ws, "HEAD^{tree}"), None)
    error = GitError(["diff-tree"], 128, said.format(tree=tree).encode())
    assert (with_unreadable(facts, repository, error).problem is not None) == (blamed and not is_there)
