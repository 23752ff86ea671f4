"""Line endings, encodings, filters."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from tests.states.registry import EVERYWHERE, HERE, LOCAL, NO_PLAIN, Loss, state
from tests.support.workspace import Workspace

CRLF = "one\r\ntwo\r\nthree\r\n"

MIXED = "one\r\ntwo\nthree\r\n"


@state(quick=EVERYWHERE)
def eol_text_auto(ws: Workspace) -> None:
    ws.write(".gitattributes", "* text=auto\n")
    ws.write("crlf.txt", "one\ntwo\n")
    ws.commit("text=auto")
    ws.write("crlf.txt", CRLF)
    ws.write("mixed.txt", MIXED)
    ws.write("untracked.txt", CRLF)
    ws.write("staged.txt", CRLF)
    ws.add("staged.txt")
    ws.write("binary.bin", b"\0\r\n\n\r")
    ws.expect(" M crlf.txt", "?? mixed.txt", "?? untracked.txt", "A  staged.txt")
    assert b"\r" not in ws.git("cat-file", "blob", ":staged.txt")


@state()
def eol_attributes(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.crlf text eol=crlf\n*.lf text eol=lf\n*.raw -text\n")
    for suffix in ("crlf", "lf", "raw"):
        ws.write(f"t.{suffix}", "one\n")
    ws.commit("eol")
    for suffix in ("crlf", "lf", "raw"):
        ws.write(f"t.{suffix}", MIXED)
        ws.write(f"u-lf.{suffix}", "one\ntwo\n")
        ws.write(f"u-crlf.{suffix}", CRLF)
        ws.write(f"u-mixed.{suffix}", MIXED)
    ws.expect(" M t.crlf", " M t.lf", " M t.raw", "?? u-lf.crlf", "?? u-crlf.lf")


@state(losses=LOCAL)
def eol_autocrlf_true(ws: Workspace) -> None:
    ws.config("core.autocrlf", "true")
    ws.write("a.txt", "only\nlf\n")
    ws.write("b.txt", CRLF)
    ws.write("u-lf.txt", "only\nlf\n")
    ws.write("u-crlf.txt", CRLF)
    ws.write("u-mixed.txt", MIXED)
    ws.expect(" M a.txt", " M b.txt", "?? u-lf.txt", "?? u-crlf.txt")


@state(losses=LOCAL)
def eol_autocrlf_input(ws: Workspace) -> None:
    ws.config("core.autocrlf", "input")
    ws.write("a.txt", CRLF)
    ws.write("u-mixed.txt", MIXED)
    ws.write("staged.txt", CRLF)
    ws.add("staged.txt")
    ws.expect(" M a.txt", "?? u-mixed.txt", "A  staged.txt")


@state(losses=LOCAL, quick=LOCAL)
def eol_all_of_it_staged(ws: Workspace) -> None:
    """Nothing differs from the index, and no checkout would give these line ends back."""
    ws.config("core.autocrlf", "input")
    ws.write("a.txt", CRLF)
    ws.write("new.txt", MIXED)
    ws.write("lf.txt", "one\ntwo\n")
    ws.add("a.txt", "new.txt", "lf.txt")
    ws.expect_exactly("M  a.txt", "A  new.txt", "A  lf.txt")


@state(losses=LOCAL)
def eol_safecrlf(ws: Workspace) -> None:
    """``git add`` refuses a file whose line endings would not come back."""
    ws.config("core.autocrlf", "true")
    ws.config("core.safecrlf", "true")
    ws.write("a.txt", MIXED)
    ws.write("u-mixed.txt", MIXED)
    ws.fails("add", "a.txt")
    ws.fails("add", "u-mixed.txt")
    ws.expect(" M a.txt", "?? u-mixed.txt")


@state(losses=LOCAL | {Loss.CLONED}, quick=EVERYWHERE)
def eol_crlf_in_a_clean_file(ws: Workspace) -> None:
    """Clean, for git; a checkout would give other bytes."""
    ws.write(".gitattributes", "*.txt text\n")
    ws.write("clean.txt", "one\ntwo\n")
    ws.commit("text")
    ws.write("clean.txt", "one\r\ntwo\r\n")
    ws.git("add", "--renormalize", "clean.txt")
    ws.git("update-index", "--refresh")
    ws.append("b.txt")
    ws.expect_exactly(" M b.txt")


@state(quick=EVERYWHERE)
def eol_by_names_that_git_trims(ws: Workspace) -> None:
    """Clean files that a checkout writes otherwise, by names that a line of `cat-file --batch` can't hold."""
    ws.write(".gitattributes", '"/ d/*" text eol=crlf\n"/x\\r" text eol=crlf\n"/n\\nl" text eol=crlf\n')
    names = (" d/y.txt", "x\r", "n\nl")
    for name in names:
        ws.write(name, "one\ntwo\n")
    ws.commit("names")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")
    assert all(ws.git("cat-file", "--filters", f":{name}") == b"one\r\ntwo\r\n" for name in names)


@state(losses=LOCAL, status_says_more=True)
def eol_committed_unnormalized(ws: Workspace) -> None:
    """CRLF stands in the history although attributes forbid it: git calls the file modified whatever one does."""
    ws.write("crlf.txt", CRLF)
    ws.commit("crlf in history")
    ws.write(".gitattributes", "* text\n")
    ws.commit("too late")
    ws.write("crlf.txt", CRLF + "four\r\n")
    ws.append("b.txt")
    ws.expect(" M crlf.txt", " M b.txt")


@state(quick=EVERYWHERE)
def encoding_utf16(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.u16 text working-tree-encoding=UTF-16\n*.le working-tree-encoding=UTF-16LE-BOM\n")
    ws.write("t.u16", "tracked\n".encode("utf-16"))
    ws.commit("utf-16")
    ws.write("t.u16", "tracked and edited \u6f22\n".encode("utf-16"))
    ws.write("u.u16", "untracked\r\n".encode("utf-16"))
    ws.write("u.le", b"\xff\xfe" + "untracked\n".encode("utf-16-le"))
    ws.write("big-endian.u16", b"\xfe\xff" + "big endian\n".encode("utf-16-be"))
    ws.expect(" M t.u16", "?? u.u16")


@state(losses=NO_PLAIN, status_says_more=True)
def encoding_that_fails(ws: Workspace) -> None:
    """``git add`` dies on these: half a character, and an encoding that does not exist."""
    ws.write(".gitattributes", "*.u16 text working-tree-encoding=UTF-16\n*.odd text working-tree-encoding=NO-SUCH\n")
    ws.write("broken.u16", b"\xff\xfea\0b")
    ws.write("no-bom.u16", b"a\0b\0")
    ws.write("file.odd", b"bytes \xff\n")
    ws.append("a.txt")
    ws.fails("add", "broken.u16")
    ws.expect(" M a.txt", "?? broken.u16")


@state()
def ident(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.c ident\n")
    ws.write("t.c", "/* $Id$ */\n")
    ws.commit("ident")
    ws.write("t.c", "/* $Id: 0123 not mine $ */\nint x;\n")
    ws.write("u.c", "/* $Id: garbage $ */\n")
    ws.expect(" M t.c", "?? u.c")


def _filter(
    ws: Workspace, name: str, clean: str | Path | None, smudge: str | Path | None, *, required: bool = False
) -> None:
    """Commit ``*.f`` files without the filter, then turn it on."""
    ws.write(".gitattributes", f"*.f filter={name}\n")
    ws.write("tracked.f", "Tracked\n")
    ws.write("unchanged.f", "Unchanged\n")
    if clean is not None:
        ws.config(f"filter.{name}.clean", clean)
    if smudge is not None:
        ws.config(f"filter.{name}.smudge", smudge)
    ws.config(f"filter.{name}.required", "true" if required else "false")


def _filtered_work(ws: Workspace) -> None:
    ws.append("tracked.f", "Edited  \n")
    ws.write("untracked.f", "Untracked \n")
    ws.append("a.txt")


@state(losses=LOCAL)
def filter_that_works(ws: Workspace) -> None:
    rot13 = "tr A-Za-z N-ZA-Mn-za-m"
    _filter(ws, "rot13", rot13, rot13, required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", "Staged\n")
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f") == b"Fgntrq\n"
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


@state(losses=LOCAL)
def filter_that_loses_bytes(ws: Workspace) -> None:
    _filter(ws, "trim", "sed 's/ *$//'", "cat")
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=NO_PLAIN)
def filter_that_hides_edits(ws: Workspace) -> None:
    """A filter that cleans everything to the same text: git sees no change, the bytes on disk did change."""
    _filter(ws, "same", "echo same", "cat")
    ws.commit("filtered")
    ws.append("tracked.f", "an edit that git cannot see\n")
    ws.git("add", "tracked.f")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL, status_says_more=True)
def filter_that_fails(ws: Workspace) -> None:
    _filter(ws, "broken", None, None)
    ws.commit("filtered")
    ws.config("filter.broken.clean", "false")
    ws.config("filter.broken.smudge", "false")
    _filtered_work(ws)
    ws.expect(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=NO_PLAIN, status_says_more=True, no_copies=True)
def filter_that_fails_but_is_required(ws: Workspace) -> None:
    _filter(ws, "broken", None, None)
    ws.commit("filtered")
    ws.config("filter.broken.required", "true")
    ws.config("filter.broken.clean", "false")
    ws.config("filter.broken.smudge", "false")
    _filtered_work(ws)
    ws.fails("add", "untracked.f")


@state()
def filter_that_is_missing(ws: Workspace) -> None:
    """Named by attributes, but nobody has configured it here."""
    ws.write(".gitattributes", "*.f filter=lfs diff=lfs merge=lfs -text\n")
    ws.write("tracked.f", "Tracked\n")
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=NO_PLAIN, status_says_more=True, quick=HERE | {Loss.REMOVED}, no_copies=True)
def filter_whose_program_is_missing(ws: Workspace) -> None:
    _filter(ws, "gone", None, None)
    ws.commit("filtered")
    for step in ("clean", "smudge", "process"):
        ws.config(f"filter.gone.{step}", "/no/such/program")
    ws.config("filter.gone.required", "true")
    _filtered_work(ws)
    ws.fails("add", "untracked.f")


@state(losses=NO_PLAIN, status_says_more=True, quick=HERE | {Loss.REMOVED})
def filter_that_cannot_smudge(ws: Workspace) -> None:
    """Like git-lfs with its store gone: in works, out does not."""
    _filter(ws, "oneway", "cat", "cat", required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")
    ws.config("filter.oneway.smudge", "false")


@state(losses=LOCAL)
def filter_with_pointers(ws: Workspace) -> None:
    """Like git-lfs: the blob is a pointer, the content stands in a store."""
    store = ws.outside / "store"
    store.mkdir()
    quoted = shlex.quote(str(store))
    clean = ws.script(
        "clean.sh",
        f'cat >{quoted}/$$ && sum=$(sha256sum <{quoted}/$$ | cut -d" " -f1) && mv {quoted}/$$ {quoted}/$sum\n'
        'printf "version pointer\\noid %s\\n" "$sum"\n',
    )
    smudge = ws.script("smudge.sh", f'read x; read x sum; cat {quoted}/"$sum"\n')
    _filter(ws, "pointer", clean, smudge, required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", os.urandom(100_000))
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f").startswith(b"version pointer\n")
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


PROCESS_FILTER = """\
import sys

def read():
    size = int(sys.stdin.buffer.read(4) or b"0", 16)
    return sys.stdin.buffer.read(size - 4) if size > 4 else None

def read_all():
    return list(iter(read, None))

def write(*packets):
    for packet in packets:
        sys.stdout.buffer.write(b"0000" if packet is None else b"%04x" % (len(packet) + 4) + packet)
    sys.stdout.buffer.flush()

read_all()
write(b"git-filter-server\\n", b"version=2\\n", None)
read_all()
write(b"capability=clean\\n", b"capability=smudge\\n", None)
while headers := read_all():
    data = b"".join(read_all())
    shift = 1 if b"command=clean\\n" in headers else -1
    data = bytes((byte + shift) % 256 for byte in data)
    write(b"status=success\\n", None, *(data[at:at + 60000] for at in range(0, len(data), 60000)), None, None)
"""


@state(losses=LOCAL)
def filter_as_a_process(ws: Workspace) -> None:
    program = ws.outside / "filter.py"
    program.write_text(PROCESS_FILTER)
    command = shlex.join([sys.executable, "-S", "-E", str(program)])
    _filter(ws, "process", None, None, required=True)
    ws.config("filter.process.process", command)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", bytes(range(256)) * 1000)
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f") != ws.read("staged.f")
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


@state(quick=EVERYWHERE)
def attributes_not_committed(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.txt text eol=crlf\n*.md ident\n")
    ws.write("docs/.gitattributes", "* -text\n")
    ws.write("u.txt", "one\ntwo\n")
    ws.write("c.txt", CRLF)
    ws.expect("?? .gitattributes", "?? docs/.gitattributes", "?? u.txt", " M c.txt")


@state()
def attributes_staged_and_edited(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.txt text\n")
    ws.add(".gitattributes")
    ws.write("c.txt", CRLF)
    ws.write(".gitattributes", "*.txt -text\n*.md working-tree-encoding=UTF-16\n")
    ws.write("u.txt", MIXED)
    ws.expect("AM .gitattributes", " M c.txt", "?? u.txt")


@state(status_says_more=True)
def attributes_made_every_file_modified(ws: Workspace) -> None:
    """``* text`` arrives where CRLF is committed; nothing else was touched."""
    ws.write("crlf.txt", CRLF)
    ws.commit("crlf")
    ws.write(".gitattributes", "* text=auto eol=lf\n")
    ws.expect("?? .gitattributes")


@state()
def attributes_for_archives(ws: Workspace) -> None:
    ws.write(".gitattributes", "docs export-ignore\n*.txt export-subst\na.txt merge=ours -delta\nd.txt binary\n")
    ws.append("docs/guide.md")
    ws.append("a.txt", "$Format:%H$\n")
    ws.expect_exactly("?? .gitattributes", " M docs/guide.md", " M a.txt")
