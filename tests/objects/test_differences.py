"""Trees that are compared by us differ where git says so, and what git would read otherwise is left to it."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from gitstate.git.entries import diff_trees
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.objects import tree as trees
from gitstate.objects.edit import edit_tree
from gitstate.objects.reader import ObjectReader
from gitstate.objects.tree import Leaf, TreeReader
from tests.support.workspace import Workspace

if TYPE_CHECKING:
    from gitstate.objects.tree import Difference

MODES = ["100644", "100755", "120000", "160000"]
NAMES = ["a", "a.b", "a-b", "ab", "b", "ü", "x y"]


def random_tree(ws: Workspace, rng: random.Random, depth: int) -> str:
    lines = []
    for name in rng.sample(NAMES, rng.randint(0 if depth else 1, len(NAMES))):
        if depth and rng.random() < 0.4:
            lines.append(f"040000 tree {random_tree(ws, rng, depth - 1)}\t{name}")
        else:
            mode = rng.choice(MODES)
            kind = "commit" if mode == "160000" else "blob"
            lines.append(f"{mode} {kind} {rng.choice('12') * 40}\t{name}")
    return made(ws, lines)


def made(ws: Workspace, lines: list[str]) -> str:
    return ws.git("mktree", "--missing", stdin="".join(f"{line}\n" for line in lines).encode()).decode().strip()


def told_by_git(repository: Repository, old: str, new: str) -> Difference:
    return {
        entry.path: (
            Leaf(entry.old_mode, entry.old_oid) if entry.old_mode else None,
            Leaf(entry.new_mode, entry.new_oid) if entry.new_mode else None,
        )
        for entry in diff_trees(repository, old, new)
    }


def test_random_trees_differ_as_git_says(ws: Workspace) -> None:
    repository = open_repository(os.fsencode(ws.path))
    rng = random.Random(14)
    roots = [random_tree(ws, rng, 2) for _ in range(8)]
    pairs = [(rng.choice(roots), rng.choice(roots)) for _ in range(12)]
    with ObjectReader(repository.git) as reader:
        found = TreeReader(reader).differences(pairs)
        assert found == [told_by_git(repository, *pair) for pair in pairs]
        assert any(found)


def raw(records: dict[bytes, bytes]) -> bytes:
    order = sorted(records, key=lambda name: name + b"/" * records[name].startswith(b"40000 "))
    return b"".join(records[name] for name in order)


@pytest.mark.parametrize("oid_bytes", [20, 32])
def test_what_both_trees_have_is_passed_over(oid_bytes: int) -> None:
    """Object ids of any bytes: NUL, and what looks like an entry, or the beginning of one."""
    rng = random.Random(oid_bytes)
    tricky = [b"\0" * oid_bytes, (b"100644 a\0" * 4)[:oid_bytes], (b" n1\0" * 9)[:oid_bytes]]

    def record(name: bytes) -> bytes:
        oid = rng.choice(tricky) if rng.random() < 0.3 else rng.randbytes(oid_bytes)
        return rng.choice((b"100644", b"100755", b"40000")) + b" " + name + b"\0" + oid

    for _ in range(300):
        names = {b"n%d" % rng.randrange(60) + rng.choice((b"", b".", b"-x", b" y")) for _ in range(rng.randrange(90))}
        old = {name: record(name) for name in names}
        new = {name: entry for name, entry in old.items() if rng.random() < 0.95}
        new |= {name: record(name) for name in names if rng.random() < rng.choice((0.02, 0.3))}
        new |= {name: record(name) for name in (b"m", b"zz") if rng.random() < 0.2}
        found = trees.differing_records(raw(old), raw(new), oid_bytes)
        expected = {
            name: (old.get(name, b""), new.get(name, b""))
            for name in old.keys() | new.keys()
            if old.get(name) != new.get(name)
        }
        # Where an object id looks like a name, git is asked.
        assert found == expected or (found is None and any(b"\0" + oid in raw(old) + raw(new) for oid in tricky))


def test_damaged_tree_is_not_compared() -> None:
    entries = [b"100644 f%d\0" % number + os.urandom(20) for number in range(9)]
    whole = b"".join(entries)
    for cut in (1, 19, 20, 21, 25, len(whole) - 5):
        for pair in ((whole, whole[:-cut]), (whole[:-cut], whole), (whole[:-cut], whole[:-cut] + b"x")):
            with contextlib.suppress(ValueError):
                found = trees.differing_records(*pair, 20)
                assert cut % 29 == 0 or found is None, (cut, found)
    twice = b"".join((*entries[:5], entries[2], *entries[5:]))
    assert trees.differing_records(whole, twice, 20) is None
    assert trees.differing_records(twice, twice[:-1] + bytes([twice[-1] ^ 1]), 20) is not None, "both have it twice"
    assert trees.differing_records(b"", b"".join((*entries, *entries)), 20) is None


@pytest.mark.parametrize("how", ["old mode", "name twice", "missing", "no tree", "too many", "too large"])
def test_what_git_reads_otherwise_is_left_to_it(how: str, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = open_repository(os.fsencode(ws.path))
    blob = ws.git("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    old = made(ws, [f"100644 blob {blob}\tf", f"100644 blob {blob}\tg"])
    new = made(ws, [f"100755 blob {blob}\tf"])
    entry = b"100644 f\0" + bytes.fromhex(blob)
    write = ("hash-object", "-t", "tree", "-w", "--stdin", "--literally")
    if how == "old mode":
        new = ws.git(*write, stdin=entry.replace(b"100644", b"100664")).decode().strip()
    elif how == "name twice":
        new = ws.git(*write, stdin=entry + entry).decode().strip()
    elif how == "missing":
        new = "1" * 40
    elif how == "no tree":
        new = blob
    elif how == "too many":
        monkeypatch.setattr(trees, "_MOST_TREES", 0)
    else:
        monkeypatch.setattr(trees, "_MOST_BYTES", 20)
    with ObjectReader(repository.git) as reader:
        assert TreeReader(reader).differences([(old, new)]) is None
        # The reader goes on.
        assert reader.kinds([blob]) == [("blob", 1)]


def test_edited_tree_is_the_one_that_git_makes(ws: Workspace) -> None:
    """In git's order, too: a directory sorts as if its name ended in a slash, a file that takes its place does not."""
    rng = random.Random(5)
    repository = open_repository(os.fsencode(ws.path))

    def write(kind: str, data: bytes) -> str:
        return ws.git("hash-object", "--literally", "-w", "-t", kind, "--stdin", stdin=data).decode().strip()

    for _ in range(20):
        old, new = random_tree(ws, rng, 1), random_tree(ws, rng, 1)
        changes = {path: leaf for path, (_, leaf) in told_by_git(repository, old, new).items()}
        with ObjectReader(repository.git) as reader:
            assert edit_tree(old, changes, TreeReader(reader), write) == new
