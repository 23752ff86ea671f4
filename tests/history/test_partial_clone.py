"""Partial clones (`git clone --filter`), with all of a worktree or a part of it: what is saved there is all there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.restore.checkout import Checkout
from tests.states import STATES, make
from tests.support.forgery import forged
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git

FILTERS = ["blob:none", "tree:0"]


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository whose files have three versions each."""
    source = Workspace(tmp_path / "source", tmp_path)
    run_git(tmp_path, "init", "-q", "-b", "main", "source")
    for version in ("one", "two", "three"):
        for name in ("top", "near/a", "near/b", "near/deep/c", "far/a", "far/deep/b"):
            source.write(name, f"{name} {version}\n")
        source.commit(version)
    run_git(tmp_path, "clone", "-q", "--bare", "source", "origin.git")
    run_git(tmp_path / "origin.git", "config", "uploadpack.allowFilter", "true")
    return tmp_path / "origin.git"


def whole(origin: Path, *options: str, name: str = "whole") -> Workspace:
    run_git(origin.parent, "clone", "-q", *options, f"file://{origin}", name)
    return Workspace(origin.parent / name, origin.parent)


def clone(origin: Path, name: str, kind: str, *, sparse: bool = False) -> Workspace:
    ws = whole(origin, f"--filter={kind}", *(["--sparse"] if sparse else []), name=name)
    if sparse:
        ws.git("sparse-checkout", "set", "near")
    assert lacking(ws)
    return ws


def lacking(ws: Workspace) -> list[str]:
    listed = ws.out("rev-list", "--objects", "--all", "--missing=print").splitlines()
    return [line for line in listed if line.startswith("?")]


def work(ws: Workspace) -> None:
    ws.write("near/a", "work\n")
    ws.write("near/new", "new\n")
    ws.write("near/deep/c", "staged\n")
    ws.add("near/deep/c")
    ws.git("mv", "near/b", "near/moved")
    ws.remove("top")


@pytest.mark.sample(3)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", FILTERS)
def test_fetched_save_comes_back_without_the_remote(kind: str, sparse: bool, origin: Path) -> None:
    ws = clone(origin, "here", kind, sparse=sparse)
    work(ws)
    before = fingerprint(ws.path)
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind, sparse=sparse)
    # Git would write it anew.
    there.git("config", "--unset", "remote.origin.partialCloneFilter")
    settings = (there.git_dir / "config").read_bytes()
    run = there.gitstate("fetch", "origin")
    assert run.exit_status == 0 and "1 save fetched" in run.stderr, run
    assert (there.git_dir / "config").read_bytes() == settings
    origin.rename(origin.parent / "away")
    shown = there.gitstate("diff", save_id)
    assert shown.exit_status == 0 and b"+work" in shown.stdout and b"-near/a three" in shown.stdout, shown
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    after = fingerprint(there.path)
    assert (after.files, after.commit) == (before.files, before.commit)


@pytest.mark.parametrize("kind", FILTERS)
def test_old_versions_that_a_save_needs_are_fetched(kind: str, origin: Path) -> None:
    """The remote sends nothing that the clone's commits reach, whether the clone has it or not."""
    run_git(origin, "repack", "-qadb")
    ws = whole(origin)
    ws.git("sparse-checkout", "set", "near")
    ws.git("checkout", "-q", "HEAD~2", "--", "near")
    ws.write("near/copy", ws.git("show", "HEAD:far/a"))
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind, sparse=True)
    assert there.gitstate("fetch", "origin").exit_status == 0
    origin.rename(origin.parent / "away")
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    assert (there.read("near/deep/c"), there.read("near/copy")) == (b"near/deep/c one\n", b"far/a three\n")


@pytest.mark.parametrize("kind", FILTERS)
def test_save_on_another_commit_than_the_clone_is_fetched(kind: str, origin: Path) -> None:
    """Of that commit a clone without trees has nothing but itself."""
    ws = whole(origin)
    ws.git("checkout", "-q", "-b", "older", "HEAD~1")
    ws.write("near/a", "work\n")
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind)
    run = there.gitstate("fetch", "origin")
    assert run.exit_status == 0 and "1 save fetched" in run.stderr, run
    origin.rename(origin.parent / "away")
    shown = there.gitstate("diff", save_id)
    assert shown.exit_status == 0 and b"-near/a two" in shown.stdout, shown


def test_what_the_remote_sends_may_build_on_what_the_clone_lacks(templates: Templates, tmp_path: Path) -> None:
    """The tree of the commit that is merged comes as its difference from one that a clone without trees has not."""
    ws = make(STATES["merge_of_a_commit_without_branch"], templates, tmp_path)
    before = fingerprint(ws.path)
    origin = tmp_path / "origin.git"
    run_git(tmp_path, "clone", "-q", "--bare", f"file://{ws.path}", "origin.git")
    run_git(origin, "config", "uploadpack.allowFilter", "true")
    ws.git("remote", "add", "origin", str(origin))
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = whole(origin, "--filter=tree:0", name="there")
    settings = (there.git_dir / "config").read_bytes()
    run = there.gitstate("fetch", "origin")
    assert run.exit_status == 0 and "1 save fetched" in run.stderr, run
    assert (there.git_dir / "config").read_bytes() == settings
    origin.rename(tmp_path / "away")
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(there.path)) == []


@pytest.mark.parametrize("kind", FILTERS)
def test_file_outside_of_the_sparse_checkout_stays_out(kind: str, origin: Path) -> None:
    """The save is of a workspace with all files, and the clone lacks most of them."""
    ws = whole(origin)
    work(ws)
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind, sparse=True)
    assert there.gitstate("fetch", "origin").exit_status == 0
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0 and "lacks stays out: 2 files outside of the sparse checkout" in run.stderr, run
    assert there.read("near/a") == b"work\n" and not (there.path / "far").exists()
    there.expect_exactly(" M near/a", "M  near/deep/c", "R  near/moved <- near/b", "?? near/new", " D top")
    there.git("sparse-checkout", "disable")
    assert there.read("far/deep/b") == b"far/deep/b three\n"
    there.expect_exactly(" M near/a", "M  near/deep/c", "R  near/moved <- near/b", "?? near/new", " D top")


@pytest.mark.parametrize("kind", FILTERS)
def test_files_that_the_clone_lacks_are_named_and_never_written_empty(kind: str, origin: Path) -> None:
    ws = whole(origin)
    ws.write("near/a", "work\n")
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = whole(origin, f"--filter={kind}", "--no-checkout", name="there")
    there.git("reset", "-q", "--no-refresh")
    assert there.gitstate("fetch", "origin").exit_status == 0
    foreseen = there.gitstate("recover", "--dry-run", "--save", save_id, "--json").json["workspaces"][0]
    assert [item["path"] for item in foreseen["restored"]] == ["near/a"], foreseen
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 4 and "this partial clone lacks it" in run.stderr, run
    assert there.read("near/a") == b"work\n" and not (there.path / "far").exists()
    there.git("checkout", "--", "far", "near/b", "near/deep", "top")
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    there.expect_exactly(" M near/a")


def test_file_at_which_git_ended_is_not_taken_for_written(origin: Path) -> None:
    there = clone(origin, "there", "blob:none", sparse=True)
    origin.rename(origin.parent / "away")
    repository = open_repository(os.fsencode(there.path))
    place = os.path.join(os.fsencode(origin.parent), b"place", b"")
    failed = Checkout(repository, repository.git, place).write([b"far/a", b"far/deep/b", b"near/a", b"top"])
    assert [item.path for item in failed] == [b"far/a", b"far/deep/b"] and all(item.lost for item in failed)
    assert sorted(path.name for path in Path(os.fsdecode(place)).rglob("*") if path.is_file()) == ["a", "top"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", FILTERS)
def test_new_worktree_of_a_partial_clone_has_all_files_or_none(kind: str, sparse: bool, origin: Path) -> None:
    ws = whole(origin)
    ws.git("checkout", "-q", "-b", "older", "HEAD~1")
    ws.write("near/a", "work\n")
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind, sparse=sparse)
    assert there.gitstate("fetch", "origin").exit_status == 0
    into = Workspace(origin.parent / "into", origin.parent)
    run = there.gitstate("recover", "--into", str(into.path), "--save", save_id)
    assert run.exit_status == 4 and "this partial clone lacks files" in run.stderr, run
    assert [path.name for path in into.path.iterdir()] == [".git"]
    into.git("reset", "-q", "--hard")
    run = into.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    into.expect_exactly(" M near/a")
    assert (into.path / "far/a").exists() is not sparse


@pytest.mark.parametrize("kind", FILTERS)
def test_fetch_mends_what_git_fetched_in_part(kind: str, origin: Path) -> None:
    ws = clone(origin, "here", kind)
    work(ws)
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", kind)
    there.git("fetch", "-q", "origin", "refs/gitstate/saves/*:refs/gitstate/fetched/origin/saves/*")
    assert there.gitstate("diff", save_id).exit_status != 0
    assert there.gitstate("fetch", "origin").exit_status == 0
    assert there.gitstate("diff", save_id).exit_status == 0


def test_fetch_that_can_not_be_made_whole_keeps_nothing(origin: Path) -> None:
    """The saves are on another remote than the files."""
    ws = whole(origin)
    ws.write("near/copy", ws.read("far/a"))
    ws.save()
    run_git(origin.parent, "clone", "-q", "--bare", str(origin), "backup.git")
    run_git(origin.parent / "backup.git", "repack", "-qadb")
    there = clone(origin, "there", "blob:none", sparse=True)
    for one in (ws, there):
        one.git("remote", "add", "backup", f"file://{origin.parent / 'backup.git'}")
    assert ws.gitstate("push", "backup").exit_status == 0
    origin.rename(origin.parent / "away")
    run = there.gitstate("fetch", "backup")
    assert run.exit_status == 1 and "origin" in run.stderr and "nothing was lost" in run.stderr, run
    assert there.refs("refs/gitstate/") == {}
    (origin.parent / "away").rename(origin)
    settings = (there.git_dir / "config").read_bytes()
    (there.git_dir / "config").write_bytes(b'[remote "Above"]\n\tpromisor\n\turl = file:///gone\n' + settings)
    assert there.gitstate("fetch", "backup").exit_status == 0
    assert len(there.refs("refs/gitstate/fetched/backup/saves/")) == 1
    assert "promisor" not in there.out("config", "--get-regexp", "remote.backup")


def test_stack_of_saves_is_fetched_whole(origin: Path) -> None:
    ws = whole(origin)
    work(ws)
    ws.save()
    ws.write("near/new", ws.read("far/deep/b"))
    ws.write("near/last", "last\n")
    save_id = ws.save("--json").json["save_id"]
    before = fingerprint(ws.path).files
    assert ws.gitstate("push", "origin").exit_status == 0
    there = clone(origin, "there", "tree:0", sparse=True)
    assert there.gitstate("fetch", "origin").exit_status == 0
    origin.rename(origin.parent / "away")
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0 and "recovered in part" in run.stderr, run
    assert "what this partial clone lacks stays out: 1 file outside of the sparse checkout" in run.stderr, run
    after = fingerprint(there.path).files
    assert after == {path: kept for path, kept in before.items() if path != b"far/a"}
    (origin.parent / "away").rename(origin)
    there.git("sparse-checkout", "disable")
    assert fingerprint(there.path).files == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("head", ["1" * 40, "HEAD^{tree}", "HEAD:near/a"])
def test_save_that_stands_on_no_commit_keeps_no_other_back(head: str, origin: Path) -> None:
    ws = whole(origin)
    work(ws)
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("push", "origin").exit_status == 0
    other = whole(origin, name="other")
    work(other)
    other.save()
    with forged(other) as parts:
        parts.manifest["head"] = head if head.isdigit() else other.out("rev-parse", head)
    other.git("push", "-q", "origin", "refs/gitstate/pending/*:refs/gitstate/pending/*")
    there = clone(origin, "there", "blob:none")
    run = there.gitstate("fetch", "origin")
    assert run.exit_status == 0, run
    assert there.gitstate("recover", "--save", save_id).exit_status == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", FILTERS)
def test_save_is_verified_although_the_clone_lacks_other_files(kind: str, sparse: bool, origin: Path) -> None:
    ws = clone(origin, "here", kind, sparse=sparse)
    work(ws)
    ws.save()
    origin.rename(origin.parent / "away")
    run = ws.gitstate("verify")
    assert run.exit_status == 0 and b"proven" in run.stdout, run


@pytest.mark.parametrize("kind", FILTERS)
def test_save_that_keeps_other_commits_is_verified(kind: str, origin: Path) -> None:
    """The commit that HEAD was on before a reset has parents whose files the clone never had."""
    ws = clone(origin, "here", kind)
    ws.git("commit", "-q", "--allow-empty", "-m", "four")
    ws.git("reset", "-q", "HEAD~3")
    before = fingerprint(ws.path)
    ws.save()
    origin.rename(origin.parent / "away")
    run = ws.gitstate("verify")
    assert run.exit_status == 0 and b"proven" in run.stdout, run
    ws.git("reset", "-q", "--hard")
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []


def test_verify_names_what_a_save_lost(origin: Path) -> None:
    ws = clone(origin, "here", "blob:none", sparse=True)
    ws.write("near/a", "work\n" * 3)
    ws.save()
    blob = ws.out("rev-parse", "HEAD:near/a")
    _drop(ws, blob)
    run = ws.gitstate("verify")
    assert run.exit_status == 4 and f"object {blob} is missing" in run.stdout.decode(), run


def _drop(ws: Workspace, oid: str) -> None:
    """Take one object out of the repository, which is promised by no pack."""
    packs = ws.git_dir / "objects/pack"
    for pack in packs.glob("*.pack"):
        if pack.with_suffix(".promisor").exists():
            continue
        moved = ws.outside / pack.name
        pack.rename(moved)
        pack.with_suffix(".idx").unlink()
        ws.git("unpack-objects", "-q", stdin=moved.read_bytes())
    (ws.git_dir / "objects" / oid[:2] / oid[2:]).unlink()


@pytest.mark.parametrize("kind", FILTERS)
def test_save_is_pushed_to_a_remote_that_has_nothing_of_it(kind: str, origin: Path) -> None:
    """That remote needs the whole history, of which the clone has a part."""
    ws = clone(origin, "here", kind)
    run_git(origin.parent, "init", "-q", "--bare", "backup.git")
    ws.git("remote", "add", "backup", f"file://{origin.parent / 'backup.git'}")
    work(ws)
    save_id = ws.save("--json").json["save_id"]
    settings = (ws.git_dir / "config").read_bytes()
    run = ws.gitstate("push", "backup")
    assert run.exit_status == 0 and "1 save sent" in run.stderr, run
    assert (ws.git_dir / "config").read_bytes() == settings
    run_git(origin.parent / "backup.git", "fsck")
    there = whole(origin, name="there")
    there.git("remote", "add", "backup", f"file://{origin.parent / 'backup.git'}")
    assert there.gitstate("fetch", "backup").exit_status == 0
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0 and there.read("near/a") == b"work\n", run


@pytest.fixture
def attributes(origin: Path) -> Path:
    """The same repository, with attributes in a directory that a sparse checkout leaves out."""
    source = Workspace(origin.parent / "source", origin.parent)
    source.write("far/.gitattributes", "*.txt text\n")
    source.commit("attributes")
    source.git("push", "-q", str(origin), "main")
    return origin


@pytest.mark.sample(5)
@pytest.mark.parametrize("patterns", [("--cone", "--sparse-index"), ("--cone",), ("--no-cone",)])
@pytest.mark.parametrize("kind", FILTERS)
def test_save_needs_no_attributes_that_the_clone_lacks(kind: str, patterns: tuple[str, ...], attributes: Path) -> None:
    origin = attributes
    ws = clone(origin, "here", kind, sparse=True)
    ws.git("sparse-checkout", "set", *patterns, "near")
    ws.write("near/a", "work\n")
    ws.write("far/new.txt", "new\r\n")
    before = fingerprint(ws.path)
    origin.rename(origin.parent / "away")
    save_id = ws.save("--json").json["save_id"]
    assert ws.gitstate("verify").exit_status == 0
    (origin.parent / "away").rename(origin)
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 0 and "1 save sent" in run.stderr, run
    there = clone(origin, "there", kind, sparse=True)
    there.git("sparse-checkout", "set", *patterns, "near")
    assert there.gitstate("fetch", "origin").exit_status == 0
    origin.rename(origin.parent / "away")
    run = there.gitstate("recover", "--save", save_id)
    assert run.exit_status == 0, run
    assert before.files == fingerprint(there.path).files
