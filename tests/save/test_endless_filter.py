"""A filter that prints without end: git keeps all of it in memory, and must end before the machine has none left."""

from __future__ import annotations

import sys

import pytest

from gitstate.git.opening import open_repository
from gitstate.workspace.settings import with_filter_limit
from tests.support.agents import ends
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

#: More than git may keep, in bytes. Without a limit a test would not end but with the machine.
PRINTED = 600 << 20
MOST = 400 << 20
#: Runs a command, and prints how many bytes the largest of its processes took.
MEASURE = """\
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10))
sys.exit(done.returncode)
"""
ENDLESS = f"cat >/dev/null; head -c {PRINTED} /dev/zero\n"
#: A long-running filter (`man gitattributes`) that answers to each file with packets of zeros.
PROCESS = f"""\
import sys
def packet(data):
    sys.stdout.buffer.write(b"%04x" % (len(data) + 4) + data)
def read():
    lines = []
    while (size := int(sys.stdin.buffer.read(4) or b"0", 16)) > 4:
        lines.append(sys.stdin.buffer.read(size - 4))
    return lines
read(), packet(b"git-filter-server\\n"), packet(b"version=2\\n")
sys.stdout.buffer.write(b"0000"), sys.stdout.buffer.flush()
read(), packet(b"capability=clean\\n"), sys.stdout.buffer.write(b"0000"), sys.stdout.buffer.flush()
while read():
    read(), packet(b"status=success\\n"), sys.stdout.buffer.write(b"0000")
    for _ in range({PRINTED} // 65_000):
        packet(bytes(65_000))
    sys.stdout.buffer.write(b"00000000"), sys.stdout.buffer.flush()
"""


@pytest.fixture
def measured(ws: Workspace) -> Workspace:
    """A workspace in which `*.e` goes through a filter; gitstate's memory is measured."""
    ws.write(".gitattributes", "*.e filter=endless\n*.g filter=works\n")
    for name in ("one.e", "one.g"):
        ws.write(name)
    ws.commit("filtered")
    ws.cli_prefix = (sys.executable, "-c", MEASURE, str(ws.outside / "memory"))
    return ws


OFF = ("-c", "filter.endless.clean=", "-c", "filter.endless.process=", "-c", "filter.endless.required=false")


def memory(ws: Workspace) -> int:
    return int((ws.outside / "memory").read_text())


@pytest.mark.parametrize(
    "step, required", [("clean", "true"), pytest.param("clean", "false", marks=pytest.mark.slow), ("process", "true")]
)
def test_filter_that_prints_without_end_costs_its_file_alone(step: str, required: str, measured: Workspace) -> None:
    """One of the files has its size of before: `git status` runs the filter, to see whether it changed."""
    ws = measured
    ws.config("filter.works.clean", "tr a-y b-z")
    work = {"one.e": "x" * len(ws.read("one.e")), "new.e": "new\n", "one.g": "text that is converted\n"}
    for name, text in work.items():
        ws.write(name, text)
    pids = ws.outside / "pids"
    (ws.outside / "endless.py").write_text(PROCESS)
    printing = ENDLESS if step == "clean" else f"exec {sys.executable} {ws.outside / 'endless.py'}\n"
    ws.config(f"filter.endless.{step}", ws.script("endless", f"echo $$ >>{pids}\n{printing}"))
    ws.config("filter.endless.required", required)
    saved = saved_from(ws.save())
    assert memory(ws) < MOST
    message = str(saved.document["message"])
    assert "one.e" in message and "new.e" in message and "one.g" not in message
    assert ws.git("cat-file", "blob", f"{saved.wip}:one.g") == b"ufyu uibu jt dpowfsufe\n"
    assert all(ends(pid) for pid in map(int, pids.read_text().split())), "its filter lives on"
    ws.git(*OFF, "reset", "-q", "--hard", "HEAD~1")
    ws.git(*OFF, "clean", "-ffdxq")
    answer = recovered_from(ws.recover())
    assert memory(ws) < MOST
    assert answer["kept"] == []
    assert {name: ws.read(name).decode() for name in work} == work


def test_limit_follows_the_size_of_the_file(measured: Workspace) -> None:
    """What a filter makes of a large file is large, too. Without a filter git needs no limit."""
    opened = open_repository(str(measured.path).encode())
    assert opened.filter_env() == {}
    measured.config("filter.endless.clean", "cat")
    limited = with_filter_limit(open_repository(str(measured.path).encode()))
    assert 1 << 20 < int(limited.filter_env()["GIT_ALLOC_LIMIT"]) < MOST
    assert int(limited.filter_env(1 << 40)["GIT_ALLOC_LIMIT"]) > 1 << 41
