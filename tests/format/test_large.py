"""Large saves: one that a person made is read, one that was forged costs little memory and little time.

A blob of a few hundred kilobytes inflates to hundreds of megabytes, and JSON takes up to thirty times its size when it
is parsed. The peak is compared with the peak of the same command on an ordinary save.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gitstate.errors import BadJson, CorruptSave
from gitstate.format import bounds
from gitstate.format.bounds import check_tree
from gitstate.format.manifest import MAX_MANIFEST, manifest_from_json, read_manifest
from gitstate.git.opening import open_repository
from gitstate.objects.reader import ObjectReader
from gitstate.system.jsonio import loads
from tests.support.forgery import Forgery, forged, store
from tests.support.past import give_past
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

#: Runs a command and prints its exit status and the peak of it and its children in kilobytes. A process of its own: a
#: child begins with the peak of the process that started it.
_MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
print(status.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
_SIZE = 24 << 20
_COMMANDS = (("status",), ("log",), ("recover", "--dry-run"), ("save",))


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with a pending save, and another change."""
    ws = three_files(tmp_path)
    ws.write("a", "a1\n")
    assert ws.save().exit_status == 0
    return ws


def peak(ws: Workspace, *args: str) -> tuple[int, int]:
    """The exit status of a command, and its peak in bytes."""
    argv = [sys.executable, "-S", "-c", _MEASURE, sys.executable, "-m", "gitstate", "-C", os.fspath(ws.path), *args]
    out = subprocess.run(argv, capture_output=True, cwd=ws.outside, check=True, timeout=300).stdout.split()
    return int(out[0]), int(out[1]) << 10


def with_list(save: Forgery, name: str, item: bytes, between: bytes = b",") -> None:
    """Give the manifest one list of `_SIZE` bytes of the same item."""
    save.manifest.pop(name, None)
    plain = json.dumps(save.manifest).encode()[:-1]
    times = _SIZE // (len(item) + len(between))
    save.raw[b"manifest.json"] = plain + b', "%s": [' % name.encode() + between.join([item] * times) + b"]}"


def empty_lists(save: Forgery) -> None:
    with_list(save, "unknown", b"[]")


def objects(save: Forgery) -> None:
    with_list(save, "staged", b'{"a":{}}')


def many_paths(save: Forgery) -> None:
    with_list(save, "ignored", b'{"path":"a"}')


def one_nested_value(save: Forgery) -> None:
    with_list(save, "ignored", b"[" + b",".join([b"{}"] * (_SIZE // 3)) + b"]")


def object_of_objects(save: Forgery) -> None:
    plain = json.dumps(save.manifest).encode()[:-1]
    inner = b",".join([b'"a":{"b":[]}'] * (_SIZE // 13))
    save.raw[b"manifest.json"] = plain + b', "unknown": {' + inner + b"}}"


def wide_text(save: Forgery) -> None:
    with_list(save, "ignored", '{"path":"😀'.encode() + b"a" * 3000 + b'"}')


def beyond_the_limit(save: Forgery) -> None:
    save.raw[b"manifest.json"] = b" " * (MAX_MANIFEST + 1)


_SPOILS = (empty_lists, objects, many_paths, one_nested_value, object_of_objects, wide_text, beyond_the_limit)


def forged_manifests() -> list[Any]:
    """Each forgery under two commands, each command with more than one forgery; under the other two it is slow."""
    cases = []
    for number, spoil in enumerate(_SPOILS):
        for half in (0, 1):
            commands = [args for place, args in enumerate(_COMMANDS) if (place + number) % 2 == half]
            marks = [pytest.mark.slow] if half else []
            cases.append(
                pytest.param(spoil, commands, id=f"{spoil.__name__}-{'-'.join(c[0] for c in commands)}", marks=marks)
            )
    return cases


@pytest.mark.sample(5)
@pytest.mark.parametrize(("spoil", "commands"), forged_manifests())
def test_forged_manifest_takes_little_memory(
    ws: Workspace, spoil: Callable[[Forgery], None], commands: Sequence[tuple[str, ...]]
) -> None:
    ordinary = {args: peak(ws, *args)[1] for args in commands}
    with forged(ws) as save:
        spoil(save)
    for args in commands:
        began = time.monotonic()
        status, most = peak(ws, *args)
        assert status != 3, args
        # The bytes themselves, at most twice, and as much again for what the entries say.
        assert most < ordinary[args] + 4 * _SIZE, (args, most >> 20, ordinary[args] >> 20)
        assert time.monotonic() - began < 60, args


def manifest_of(ws: Workspace, **lists: object) -> bytes:
    with forged(ws) as save:
        manifest = save.manifest | lists
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def staged(number: int) -> list[dict[str, str]]:
    """As many staged files as a manifest lists them."""
    name = "packages/module-{:04d}/source/component/файл_{:06d}.py"
    return [{"path": name.format(item % 2000, item), "mode": "100644", "oid": f"{item:040x}"} for item in range(number)]


@pytest.mark.slow
def test_manifest_of_200_000_staged_files_is_read(ws: Workspace) -> None:
    data = manifest_of(ws, staged=staged(200_000), ignored=[{"path": 'a\n\\"b'}])
    assert len(data) > 25_000_000
    manifest = read_manifest(data, MAX_MANIFEST)
    assert len(manifest.staged) == 200_000
    assert manifest.ignored == (b'a\n\\"b',)


def test_json_of_large_manifests_takes_no_more_memory_than_the_table_of_one(ws: Workspace) -> None:
    """Neither all manifests are held together, nor all entries of one as JSON."""
    with forged(ws) as save:
        save.manifest["staged"] = staged(12_000)
    _, one = peak(ws, "log")
    give_past(ws, 4)
    listed = ws.gitstate("log", "--json").json["saves"]
    assert [len(save["manifest"]["staged"]) for save in listed] == [12_000] * 4
    status, most = peak(ws, "log", "--json")
    assert status == 0
    assert most < one + (8 << 20), (most >> 20, one >> 20)


def test_large_manifest_is_read_as_a_small_one(ws: Workspace) -> None:
    """Whatever is cut by the pieces in which a large one is read."""
    value = json.loads(manifest_of(ws, staged=staged(30_000), modes=[{"path": "ä", "mode": "600"}]))
    expected = manifest_from_json(value)
    for layout, ascii_only in ((None, True), (1, False), (3, True)):
        data = json.dumps(value, indent=layout, ensure_ascii=ascii_only).encode()
        assert len(data) > 2 << 20
        assert read_manifest(b" \n" + data + b"\n", MAX_MANIFEST) == expected


@pytest.mark.sample(3)
@pytest.mark.parametrize("cut", [b"", b"]", b"}}", b",", b'{"path": "x"}', b"\xff"])
def test_damaged_large_manifest_is_refused(ws: Workspace, cut: bytes) -> None:
    data = manifest_of(ws, staged=staged(10_000)).rstrip()
    assert len(data) > 1 << 20
    middle = data.index(b"},", len(data) // 2)
    for damaged in (data[:middle] + cut, data[:-1] + cut if cut not in (b"", b",") else data[:-1]):
        with pytest.raises((BadJson, CorruptSave)):
            read_manifest(damaged, MAX_MANIFEST)


def test_bad_entry_of_a_large_manifest_is_named(ws: Workspace) -> None:
    data = manifest_of(ws, staged=[*staged(10_000), {"path": "../x", "mode": "100644", "oid": "0" * 40}])
    with pytest.raises(CorruptSave, match="unsafe path"):
        read_manifest(data, MAX_MANIFEST)


def test_number_at_the_end_of_a_piece_is_read_whole() -> None:
    for shift in range(12):
        data = b'{"list": [' + b" " * ((1 << 18) - 16 + shift) + b"123456]," + b" " * (1 << 20) + b'"number": 987654}'
        value = loads(data, len(data), "it", {"list": lambda item: item})
        assert (value["list"], value["number"]) == ([123456], 987654)


def test_real_save_of_many_staged_files_is_read(ws: Workspace) -> None:
    """Listed, recovered and stacked: not only its manifest alone. 12,000 files make a manifest of more than a piece."""
    with forged(ws) as save:
        blob = save.blob(b"x\n")
    lines = [f"100644 {blob}\tvendor/library-{number % 300}/source/file-{number}.txt" for number in range(12_000)]
    ws.git("update-index", "--index-info", stdin="\n".join(lines).encode())
    saved = ws.save()
    assert saved.exit_status == 0
    size = int(ws.out("cat-file", "-s", next(iter(ws.refs("refs/gitstate/pending").values())) + ":manifest.json"))
    assert size > 1 << 20
    newest = ws.gitstate("log", "--json").json["saves"][0]
    assert newest["problem"] is None
    assert len(newest["manifest"]["staged"]) == 12_000
    assert ws.gitstate("recover").exit_status == 0
    assert ws.out("diff", "--cached", "--name-only").count("\n") >= 11_999


def test_tree_of_another_host_with_too_many_directories_is_refused(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_MOST_TREES", 50)
    below = store(ws, "tree", b"")
    for level in range(60):
        below = store(ws, "tree", b"40000 d%d\0" % level + bytes.fromhex(below))
    repository = open_repository(os.fsencode(ws.path))
    with ObjectReader(repository.git) as reader, pytest.raises(CorruptSave, match="50"):
        check_tree(reader, below)


def test_wide_tree_of_another_host_is_refused_while_it_is_read(ws: Workspace) -> None:
    """A tree of a few kilobytes packed names 400,000 directories that need not be there."""
    wide = b"".join(b"40000 %07d\0" % number + number.to_bytes(20, "big") for number in range(400_000))
    root = store(ws, "tree", wide)
    with (
        ObjectReader(open_repository(os.fsencode(ws.path)).git) as reader,
        pytest.raises(CorruptSave, match="director"),
    ):
        check_tree(reader, root)
