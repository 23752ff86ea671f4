"""Git reads the packs that gitstate writes, for objects of every size."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import LARGE
from tests.faults.strace import why_not_strace
from tests.support.workspace import Workspace

SIZES = (0, 1, 15, 16, 2047, 2048, 65_534, 65_535, 65_536, 131_070, 131_071, 300_000)


@pytest.mark.sample(2)
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


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_pack_and_its_index_are_on_the_disk_before_they_have_a_name(ws: Workspace, tmp_path: Path) -> None:
    """Both are written before either is synced: one transaction of the disk takes both. Git starts meanwhile."""
    ws.write("a.txt", "changed\n")
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-y", "-o", str(trace), "-e", "trace=write,fsync,rename,vfork,clone,clone3")
    assert ws.save().exit_status == 0
    lines = trace.read_text().splitlines()
    parts = [number for number, line in enumerate(lines) if re.search(r"gitstate_tmp_\S+_part_[23]>", line)]
    told = [re.match(r"\w+", lines[number]) for number in parts]
    assert [word and word[0] for word in told] == ["write", "write", "fsync", "fsync"]
    places = [number for number, line in enumerate(lines) if line.startswith("rename") and "_part_" in line]
    assert parts[3] < places[-2] and [lines[number].count(".idx") for number in places[-2:]] == [0, 1]
    between = lines[parts[1] : parts[2]]
    assert any(re.match("v?fork|clone", line) for line in between), lines


def test_pack_that_was_not_written_leaves_nothing(ws: Workspace) -> None:
    writer = PackWriter(os.fsencode(ws.git_dir / "objects"), "sha1", "test")
    writer.add("blob", b"lost\n")
    packs = ws.git_dir / "objects/pack"
    before = {*packs.iterdir()}

    def fail() -> None:
        # Neither has its name.
        assert sorted(path.suffix for path in {*packs.iterdir()} - before) == ["", "", ".keep"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        writer.finish(meanwhile=fail)
    writer.release()
    assert {*packs.iterdir()} == before
