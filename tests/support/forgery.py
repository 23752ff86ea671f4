"""Tampered saves: change any entry, the manifest or the context of the pending save."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.workspace import Workspace

FILE, PROGRAM, LINK, TREE = b"100644", b"100755", b"120000", b"40000"

HOOK = b"#!/bin/sh\necho PWNED\n"


class Entry(NamedTuple):
    mode: bytes
    name: bytes
    oid: str


@dataclass
class Forgery:
    """A save in parts. Files in `raw` are stored as they are, in place of the JSON."""

    ws: Workspace
    manifest: dict[str, Any]
    context: dict[str, Any]
    wip: list[Entry]
    archive: list[Entry]
    raw: dict[bytes, bytes] = field(default_factory=dict)

    def blob(self, data: bytes) -> str:
        return store(self.ws, "blob", data)

    def tree(self, *entries: Entry) -> str:
        return store(self.ws, "tree", b"".join(b"%s %s\0" % entry[:2] + bytes.fromhex(entry.oid) for entry in entries))


def store(ws: Workspace, kind: str, data: bytes) -> str:
    """Write an object that git itself would reject."""
    return ws.git("hash-object", "-t", kind, "-w", "--stdin", "--literally", stdin=data).decode().strip()


def listed(ws: Workspace, tree: str) -> list[Entry]:
    found = []
    for line in ws.git("ls-tree", "-z", tree).split(b"\0")[:-1]:
        meta, name = line.split(b"\t", 1)
        mode, _, oid = meta.split(b" ")
        found.append(Entry(mode.lstrip(b"0"), name, oid.decode()))
    return found


@contextlib.contextmanager
def forged(ws: Workspace, kind: str = "pending") -> Iterator[Forgery]:
    """Change the save that is pending, or with `checkpoints` the latest checkpoint."""
    ((marker, archive),) = ws.refs(f"refs/gitstate/{kind}").items()
    wip = ws.out("rev-parse", archive + "^1")
    parts = Forgery(
        ws,
        manifest=json.loads(ws.git("cat-file", "blob", archive + ":manifest.json")),
        context=json.loads(ws.git("cat-file", "blob", archive + ":context.json")),
        wip=listed(ws, wip),
        archive=listed(ws, archive),
    )
    save_id = parts.manifest["save_id"]
    yield parts
    body = ws.git("cat-file", "commit", wip).split(b"\n", 1)[1]
    new_wip = store(ws, "commit", b"tree " + parts.tree(*parts.wip).encode() + b"\n" + body)
    json_files = {b"manifest.json": parts.manifest, b"context.json": parts.context}
    blobs = {name: parts.blob(parts.raw.get(name, json.dumps(value).encode())) for name, value in json_files.items()}
    entries = [entry._replace(oid=blobs.get(entry.name, entry.oid)) for entry in parts.archive]
    entries.sort(key=lambda entry: entry.name + b"/" * (entry.mode == TREE))
    body = ws.git("cat-file", "commit", archive).replace(wip.encode(), new_wip.encode()).split(b"\n", 1)[1]
    new_archive = store(ws, "commit", b"tree " + parts.tree(*entries).encode() + b"\n" + body)
    ws.git("update-ref", marker, new_archive)
    if kind == "pending":
        ws.git("update-ref", f"refs/gitstate/saves/{marker.rsplit('/', 1)[1]}/{save_id}", new_archive)
    if ws.out("rev-parse", "HEAD") == wip:
        ws.git("update-ref", "HEAD", new_wip)


def index_file(entries: Sequence[tuple[bytes, int, str]]) -> bytes:
    """An index in git's format, with names that git would reject."""
    data = b"DIRC" + struct.pack(">LL", 2, len(entries))
    for name, mode, oid in sorted(entries):
        entry = struct.pack(">10L", 0, 0, 0, 0, 0, 0, mode, 0, 0, 0) + bytes.fromhex(oid)
        entry += struct.pack(">H", len(name)) + name
        data += entry + b"\0" * (8 - len(entry) % 8)
    return data + hashlib.sha1(data).digest()
