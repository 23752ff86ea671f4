"""A commit whose tree names a path twice: no git writes one, and `git fsck` reports it."""

from __future__ import annotations

import pytest

from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


@pytest.mark.parametrize("wiped", [False, True])
def test_file_that_the_tree_of_head_names_twice_stays(wiped: bool, ws: Workspace) -> None:
    entries = []
    for line in ws.git("ls-tree", "-z", "HEAD").split(b"\0")[:-1]:
        head, name = line.split(b"\t", 1)
        mode, _, oid = head.split(b" ")
        entry = mode.lstrip(b"0") + b" " + name + b"\0" + bytes.fromhex(oid.decode("ascii"))
        entries.append(entry * (2 if name in (b"docs", b"b.txt") else 1))
    argv = ("hash-object", "-w", "-t", "tree", "--literally", "--stdin")
    twice = ws.git(*argv, stdin=b"".join(entries)).decode("ascii").strip()
    ws.git("update-ref", "HEAD", ws.out("commit-tree", "-p", "HEAD", "-m", "twice", twice))
    ws.append("docs/guide.md")
    ws.add("docs/guide.md")
    ws.append("b.txt")
    ws.write("untracked.txt")
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    if wiped:
        for path in ("docs/guide.md", "b.txt", "untracked.txt"):
            ws.remove(path)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []
