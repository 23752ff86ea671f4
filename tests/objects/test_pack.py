"""Git reads the packs that gitstate writes, for objects of every size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import LARGE
from tests.support.workspace import Workspace

SIZES = (0, 1, 15, 16, 2047, 2048, 65_534, 65_535, 65_536, 131_070, 131_071, 300_000)


@pytest.mark.parametrize("deflates", [False, True])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_reads_every_object_of_a_pack(object_format: str, deflates: bool, tmp_path: Path) -> None:
    ws = Workspace(tmp_path, tmp_path)
    ws.git("init", "-q", f"--object-format={object_format}", ".")
    writer = PackWriter(os.fsencode(tmp_path / ".git/objects"), object_format, "test", deflates=deflates)
    given = {writer.add("blob", data): data for size in SIZES for data in (os.urandom(size), b"text\n" * (size // 5))}
    with open(tmp_path / "large", "w+b") as file:
        file.write(os.urandom(LARGE + 1))
        file.seek(0)
        large = writer.add_file(file.fileno(), LARGE + 1)
    writer.finish()
    writer.release()
    for oid, data in given.items():
        assert ws.git("cat-file", "blob", oid) == data
    assert ws.git("cat-file", "blob", large) == (tmp_path / "large").read_bytes()
    ws.git("fsck", "--strict", "--full")
    for pack in (tmp_path / ".git/objects/pack").glob("*.idx"):
        ws.git("verify-pack", os.fspath(pack))


def test_deflated_pack_is_smaller(tmp_path: Path) -> None:
    Workspace(tmp_path, tmp_path).git("init", "-q", ".")
    written = []
    for deflates in (False, True):
        writer = PackWriter(os.fsencode(tmp_path / ".git/objects"), "sha1", "test", deflates=deflates)
        for number in range(20):
            writer.add("blob", b"%d\n" % number * 500)
        writer.finish()
        written.append(writer.written)
    assert written[1] < written[0] / 2
