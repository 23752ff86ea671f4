"""Entries are parsed as git prints them, and anything else is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.errors import MissingObject
from gitstate.git.command import Git, try_in_halves
from gitstate.git.entries import (
    DiffEntry,
    IndexEntry,
    TreeEntry,
    diff_pairs_of_trees,
    diff_trees,
    differing_paths,
    each_difference,
    list_index,
    list_tree,
    list_tree_paths,
    list_unmerged,
)
from gitstate.git.opening import open_repository
from gitstate.git.status import parse_listing
from tests.support.workspace import Workspace

A, B, ZERO = "a" * 40, "b" * 64, "0" * 40

INDEX_LINES = [
    (b"100644 %s 0\tf" % A.encode(), IndexEntry(b"f", 0o100644, A)),
    (b"160000 %s 0\ta \tb" % B.encode(), IndexEntry(b"a \tb", 0o160000, B)),
    (b"120000 %s 3\t\xff\n" % A.encode(), IndexEntry(b"\xff\n", 0o120000, A, 3)),
    (b"S 100755 %s 0\tf" % A.encode(), IndexEntry(b"f", 0o100755, A, 0, "S")),
    (b"m 100644 %s 1\tf" % A.encode(), IndexEntry(b"f", 0o100644, A, 1, "m")),
]
TREE_LINES = [
    (b"100644 blob %s\td/f" % A.encode(), TreeEntry(b"d/f", 0o100644, A)),
    (b"160000 commit %s\tsub" % A.encode(), TreeEntry(b"sub", 0o160000, A)),
]
DIFF_LINES = [
    (f":000000 100644 {ZERO} {A} A", DiffEntry(b"f", "A", 0, ZERO, 0o100644, A)),
    (f":100644 000000 {A} {ZERO} D", DiffEntry(b"f", "D", 0o100644, A, 0, ZERO)),
    (f":100644 120000 {A} {A} T", DiffEntry(b"f", "T", 0o100644, A, 0o120000, A)),
]
NOT_ENTRIES = [
    b"",
    b"f",
    b"\tf",
    b"100644 %s 0" % A.encode(),
    b"100644 %s 0\t" % A.encode(),
    b"100644 %s 4\tf" % A.encode(),
    b"100844 %s 0\tf" % A.encode(),
    b"1 %s 0\tf" % A.encode(),
    b"100644 %s 0\tf" % A[1:].encode(),
    b"100644 thing %s\tf" % A.encode(),
    b"HH 100644 %s 0\tf" % A.encode(),
    b"H H 100644 %s 0\tf" % A.encode(),
]


@pytest.mark.parametrize(("line", "entry"), INDEX_LINES)
def test_index_lines(line: bytes, entry: IndexEntry) -> None:
    assert IndexEntry.parse(line) == entry


@pytest.mark.parametrize(("line", "entry"), TREE_LINES)
def test_tree_lines(line: bytes, entry: TreeEntry) -> None:
    assert TreeEntry.parse(line) == entry


@pytest.mark.parametrize(("line", "entry"), DIFF_LINES)
def test_raw_diff_lines(line: str, entry: DiffEntry) -> None:
    assert DiffEntry.parse(line.encode("ascii"), b"f") == entry


@pytest.mark.parametrize("line", NOT_ENTRIES)
def test_anything_else_is_refused(line: bytes) -> None:
    for parse in (IndexEntry.parse, TreeEntry.parse, lambda line: DiffEntry.parse(line, b"f")):
        with pytest.raises(ValueError):
            parse(line)


def test_raw_diff_without_a_path_is_refused() -> None:
    with pytest.raises(ValueError):
        DiffEntry.parse(DIFF_LINES[0][0].encode("ascii"), b"")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws", tmp_path)
    ws.path.mkdir()
    ws.git("init", "-q", ".")
    ws.write("a b", "1\n")
    ws.write("d/\u00e9\n", "2\n")
    ws.symlink("a b", "link")
    ws.commit("first")
    return ws


def git_of(ws: Workspace) -> Git:
    return Git(os.fsencode(ws.path))


def test_info_line_is_what_update_index_reads(ws: Workspace) -> None:
    before = list_index(git_of(ws))
    ws.git("read-tree", "--empty")
    ws.git("update-index", "-z", "--index-info", stdin=b"".join(entry.info_line() for entry in before))
    assert len(before) == 3 and list_index(git_of(ws)) == before


def test_many_entries_are_listed_as_few_are(ws: Workspace) -> None:
    oid = ws.git("hash-object", "-w", "--stdin", stdin=b"x").decode("ascii").strip()
    paths = [b"many/%04d" % number for number in range(1001)]
    lines = b"".join(IndexEntry(path, 0o100644, oid).info_line() for path in paths)
    ws.git("update-index", "-z", "--index-info", stdin=lines)
    assert [entry.path for entry in list_index(git_of(ws), paths)] == paths
    # Of many it takes them from the list of all, of few git compares each entry with each of them.
    assert [entry.path for entry in list_index(git_of(ws), paths[:500])] == paths[:500]
    assert [entry.path for entry in list_index(git_of(ws), paths[3:900])] == paths[3:900]
    some = [b"many", *(b"none/%d" % number for number in range(600))]
    assert [entry.path for entry in list_index(git_of(ws), some)] == paths
    assert list_index(git_of(ws), some[:3]) == list_index(git_of(ws), some)
    assert list_index(git_of(ws), []) == []
    assert len(list_index(git_of(ws))) == 1004


def test_tags_are_those_of_ls_files(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a b")
    ws.git("update-index", "--assume-unchanged", "link")
    assert {entry.path: entry.tag for entry in list_index(git_of(ws), tags=True)} == {
        b"a b": "S",
        "d/\u00e9\n".encode(): "H",
        b"link": "h",
    }
    listing = parse_listing(ws.git("ls-files", "-z", "-v", "--sparse"))
    assert listing.hidden == [(b"S", b"a b"), (b"h", b"link")]
    assert listing.paths == [entry.path for entry in list_index(git_of(ws))]


def test_listing_of_ordinary_entries_only(ws: Workspace) -> None:
    ws.write("H H", "a path like the tag before it\n")
    ws.git("add", "-A")
    assert parse_listing(ws.git("ls-files", "-z", "-v")) == (
        [b"H H", b"a b", "d/\u00e9\n".encode(), b"link"],
        [],
    )
    assert parse_listing(b"") == ([], [])


def test_unmerged_entries(ws: Workspace) -> None:
    ws.git("checkout", "-q", "-b", "side")
    ws.write("a b", "side\n")
    ws.commit("side")
    ws.git("checkout", "-q", "-")
    ws.write("a b", "main\n")
    ws.commit("main")
    ws.fails("merge", "side")
    assert [(entry.path, entry.stage) for entry in list_unmerged(git_of(ws))] == [(b"a b", 1), (b"a b", 2), (b"a b", 3)]


def test_trees_and_their_differences(ws: Workspace) -> None:
    repository = open_repository(os.fsencode(ws.path))
    old = ws.out("rev-parse", "HEAD^{tree}")
    ws.remove("link")
    ws.write("d/new", "3\n")
    ws.write("a b", "4\n")
    ws.commit("second")
    new = ws.out("rev-parse", "HEAD^{tree}")
    assert [(entry.path, entry.status) for entry in diff_trees(repository, old, new)] == [
        (b"a b", "M"),
        (b"d/new", "A"),
        (b"link", "D"),
    ]
    assert differing_paths(repository, old, new) == [b"a b", b"d/new", b"link"]
    assert differing_paths(repository, new, new) == []
    assert differing_paths(repository, None, new) == list_tree_paths(repository.git, new)
    assert list_tree_paths(repository.git, new) == [entry.path for entry in list_tree(repository.git, new)]
    assert list_tree_paths(repository.git, new, b"d") == [b"d/new", "d/\u00e9\n".encode()]


def test_torn_index_does_not_matter_to_a_difference(ws: Workspace) -> None:
    repository = open_repository(os.fsencode(ws.path))
    tree = ws.out("rev-parse", "HEAD^{tree}")
    ws.write(".git/index", "torn")
    assert differing_paths(repository, ws.out("hash-object", "-t", "tree", "-w", "/dev/null"), tree)


@pytest.mark.parametrize(
    ("items", "bad", "calls"),
    [
        ([], [], 0),
        ([1], [], 1),
        ([1], [1], 1),
        ([1, 2, 3, 4], [], 1),
        ([1, 2, 3, 4], [3], 5),
        ([1, 2, 3], [1, 2, 3], 5),
    ],
)
def test_git_that_fails_at_one_item_is_tried_in_halves(items: list[int], bad: list[int], calls: int) -> None:
    tried: list[list[int]] = []

    def work(some: object) -> list[int] | None:
        assert isinstance(some, list)
        tried.append(some)
        return None if set(some) & set(bad) else [-item for item in some]

    portions = try_in_halves(items, work)
    assert [item for portion, _ in portions for item in portion] == items
    assert [item for portion, result in portions if result is None for item in portion] == bad
    assert [-item for _, result in portions for item in result or ()] == [item for item in items if item not in bad]
    assert len(tried) == calls


def some_trees(ws: Workspace) -> list[str]:
    """Those of four commits, each with a file more."""
    trees = [ws.out("rev-parse", "HEAD^{tree}")]
    for name in ("new\nline", "d/f", "d/g"):
        ws.write(name, name)
        ws.add(name)
        ws.commit()
        trees.append(ws.out("rev-parse", "HEAD^{tree}"))
    return trees


def test_several_pairs_of_trees_are_compared_at_once(ws: Workspace) -> None:
    trees = some_trees(ws)
    repository = open_repository(os.fsencode(ws.path))
    pairs = [(trees[0], trees[1]), (trees[1], trees[1]), (trees[3], trees[0]), (trees[2], trees[2])]
    diffs = [diff_trees(repository, *pair) for pair in pairs]
    assert diff_pairs_of_trees(repository, pairs) == diffs
    assert diff_pairs_of_trees(repository, []) == []
    told = [(number, entry) for number, diff in enumerate(diffs) for entry in diff]
    for size in (1, 7, 1 << 18):
        assert list(each_difference(repository, pairs, size)) == told


@pytest.mark.parametrize("place", range(3))
def test_pair_with_a_missing_tree_is_not_taken_for_another(place: int, ws: Workspace) -> None:
    """Git passes over it, and ends with 0."""
    trees = some_trees(ws)
    repository = open_repository(os.fsencode(ws.path))
    pairs = [(trees[0], trees[1]), (trees[1], trees[2])]
    pairs.insert(place, (trees[0], A))
    with pytest.raises(MissingObject, match=f"object {trees[0]} or {A} is missing or no tree"):
        diff_pairs_of_trees(repository, pairs)
    with pytest.raises(MissingObject):
        list(each_difference(repository, pairs))
