"""Files that git converts as it writes them: what it wrote is nobody's work, and git is asked about many at once."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import pytest

from tests.recover.test_cost import LOGGING
from tests.states import STATES, make
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import Templates, unpack
from tests.support.workspace import Workspace

FILES = 40


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    """Many changed files with the line ends of Windows, which the repository does not hold."""
    ws = make(STATES["clean"], templates, tmp_path)
    ws.config("core.autocrlf", "true")
    ws.config("filter.other.clean", "tr a-z A-Z")
    ws.config("filter.other.smudge", "tr A-Z a-z")
    ws.write(
        ".gitattributes", "*.up filter=other\n*.u16 working-tree-encoding=UTF-16\n*.odd working-tree-encoding=none\n"
    )
    for number in range(FILES):
        ws.write(f"many/file{number}", f"file {number}\r\n")
    for number in range(3):
        ws.write(f"many/{number}.up", f"file {number}\n")
        ws.write(f"many/{number}.u16", f"file {number}\n".encode("utf-16"))
    ws.git("add", "-A")
    ws.commit()
    return ws


def saved_and_wiped(ws: Workspace) -> Fingerprint:
    for number in range(FILES):
        ws.write(f"many/file{number}", f"changed {number}\r\n")
    for number in range(3):
        ws.write(f"many/{number}.up", f"changed {number}\n")
        ws.write(f"many/{number}.u16", f"changed {number}\n".encode("utf-16"))
    before, base = fingerprint(ws.path), ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-fdq")
    return before


def test_many_files_are_recovered_with_few_processes(ws: Workspace, tmp_path: Path) -> None:
    """Each by itself would be a process for each; a program that converts has its limits for each file."""
    before = saved_and_wiped(ws)
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "git").write_text(LOGGING.format(log=log, git=shutil.which("git")))
    (tools / "git").chmod(0o755)
    ws.cli_env = {**ws.cli_env, "PATH": f"{tools}:{os.environ['PATH']}"}
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []
    alone = [line for line in (tmp_path / "log.words").read_text().splitlines() if "--filters --path=" in line]
    assert len(alone) <= 6, alone
    assert not any("many/file" in line for line in alone)


def test_file_edited_since_stays_among_many_that_git_wrote(ws: Workspace) -> None:
    saved_and_wiped(ws)
    ws.write("many/file7", "edited since\r\n")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "changed" and [one["path"] for one in answer["kept"]] == ["many/file7"]
    assert ws.read("many/file7") == b"edited since\r\n"
    assert ws.read("many/file9") == b"changed 9\r\n"


def test_conversion_that_fails_costs_no_other_file(ws: Workspace) -> None:
    """Git ends where it can't convert one of those that it was asked about at once."""
    saved_and_wiped(ws)
    (ws.git_dir / "info").mkdir(exist_ok=True)
    (ws.git_dir / "info" / "attributes").write_text("many/file20 working-tree-encoding=none\n")
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert [ws.read(f"many/file{n}") for n in range(FILES) if n != 20] == [
        b"changed %d\r\n" % n for n in range(FILES) if n != 20
    ]
    assert ws.read("many/file20") in (b"changed 20\r\n", b"file 20\r\n"), answer


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", [("restore", "latest"), ("recover", "--dry-run"), ("recover",)], ids=" ".join)
def test_torn_index_costs_no_file(command: tuple[str, ...], ws: Workspace) -> None:
    """Git tells no attributes where it can't read the index."""
    saved_and_wiped(ws)
    (ws.git_dir / "index").write_bytes(b"DIRCgarbage")
    run = ws.gitstate("--json", *command)
    (answer,) = run.json["workspaces"]
    assert run.exit_status == 0 and answer["verdict"] != "changed", run
    wanted = b"file 7\r\n" if "--dry-run" in command else b"changed 7\r\n"
    assert ws.read("many/file7") == wanted and "many/file7" in [one["path"] for one in answer["restored"]]


def test_git_that_is_killed_costs_no_file(ws: Workspace, tmp_path: Path) -> None:
    """As by the OOM killer. Each file is asked for by itself then."""
    before = saved_and_wiped(ws)
    tools, once = tmp_path / "tools", tmp_path / "once"
    tools.mkdir()
    once.touch()
    kills = f'case "$*" in *"--filters --batch="*) rm {once} 2>/dev/null && kill -9 $$;; esac'
    (tools / "git").write_text(f'#!/bin/sh\n{kills}\nexec {shutil.which("git")} "$@"\n')
    (tools / "git").chmod(0o755)
    ws.cli_env = {**ws.cli_env, "PATH": f"{tools}:{os.environ['PATH']}"}
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == [] and not once.exists()


def test_file_emptied_since_stays_where_git_can_not_read_its_base(ws: Workspace, tmp_path: Path) -> None:
    """Git ends at a damaged blob, and has printed by then that its content comes next."""
    saved_and_wiped(ws)
    unpack(ws, tmp_path / "packs")
    damage(ws, "HEAD:many/file7")
    ws.write("many/file7", "")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "changed" and [one["path"] for one in answer["kept"]] == ["many/file7"]
    assert ws.read("many/file7") == b""
    assert ws.read("many/file8") == b"changed 8\r\n"


def test_file_edited_since_costs_no_other_where_its_base_is_damaged(templates: Templates, tmp_path: Path) -> None:
    """It may have been a pointer to what is there: nobody can read that any more, and the disk wins."""
    ws = make(STATES["clean"], templates, tmp_path)
    ws.append("a.txt")
    ws.append("b.txt")
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    ws.write("a.txt", "edited since\n")
    unpack(ws, tmp_path / "packs")
    damage(ws, "HEAD:a.txt")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "changed" and [one["path"] for one in answer["kept"]] == ["a.txt"]
    assert ws.read("a.txt") == b"edited since\n" and ws.read("b.txt").endswith(b"one more line\n")


def damage(ws: Workspace, name: str) -> None:
    """Cut a blob that is a file short, behind what tells its kind and size."""
    oid = ws.out("rev-parse", name)
    path = ws.git_dir / "objects" / oid[:2] / oid[2:]
    head = zlib.decompress(path.read_bytes()).partition(b"\0")[0] + b"\0"
    deflate = zlib.compressobj()
    path.unlink()
    path.write_bytes(deflate.compress(head) + deflate.flush(zlib.Z_SYNC_FLUSH))
