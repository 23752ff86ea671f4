"""`status --prometheus`: a file in the text format of Prometheus, written whole, never through a link."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.fleet.board import STATES, Row
from gitstate.fleet.prometheus import metrics
from tests.support.agents import wait_until
from tests.support.workspace import Workspace, run_gitstate

#: https://github.com/prometheus/docs/blob/main/content/docs/instrumenting/exposition_formats.md
SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.]+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|\Z)')

Labels = frozenset[tuple[str, str]]


def parse(text: str) -> dict[str, dict[Labels, float]]:
    """The samples of each metric by their labels, as Prometheus reads them; raises where it would refuse the file."""
    assert text.endswith("\n")
    found: dict[str, dict[Labels, float]] = {}
    typed: list[str] = []
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            assert line.split(" ", 3)[3], line
        elif line.startswith("# TYPE "):
            name, kind = line.split(" ")[2:]
            assert kind == "gauge" and name not in typed
            typed.append(name)
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample and sample["name"] == typed[-1], line
            labels = frozenset(label_pairs(sample["labels"] or ""))
            samples = found.setdefault(sample["name"], {})
            assert labels not in samples, f"twice: {line}"
            samples[labels] = float(sample["value"])
    return found


def label_pairs(text: str) -> Iterator[tuple[str, str]]:
    while text:
        label = LABEL.match(text)
        assert label, text
        yield label[1], re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], label[2])
        text = text[label.end() :]


def states(text: str) -> dict[str, float]:
    """How many workspaces are in each state, without those of none."""
    counts = {dict(labels)["state"]: value for labels, value in parse(text)["gitstate_workspaces"].items()}
    assert set(counts) == set(STATES)
    return {state: count for state, count in counts.items() if count}


def test_file_tells_what_status_tells(ws: Workspace, tmp_path: Path) -> None:
    ws.append("a.txt")
    ws.gitstate("save", "--task-id", "T-7", "agent=tester", "progress_stage=coding")
    file = tmp_path / "gitstate.prom"
    run = ws.gitstate("status", "--all", "--prometheus", str(file))
    assert (run.exit_status, run.stdout, run.stderr) == (0, b"", "")
    text = file.read_text()
    found = parse(text)
    assert states(text) == {"interrupted": 1}
    assert found["gitstate_pending_saves"] == {frozenset(): 1}
    ((info, one),) = found["gitstate_workspace_info"].items()
    expected = {"state": "interrupted", "agent": "tester", "task": "T-7", "stage": "coding"}
    assert dict(info) == {"workspace": str(ws.path), **expected} and one == 1
    ((copy, when),) = found["gitstate_newest_copy_timestamp_seconds"].items()
    (looked,) = found["gitstate_status_timestamp_seconds"].values()
    assert dict(copy) == {"workspace": str(ws.path)} and 0 <= looked - when < 600
    assert os.stat(file).st_mtime >= looked - 1


@pytest.mark.parametrize(
    "value", ["\x1b[2J", 'quote " and \\ back', "two\nlines\r\t", "\u202eevil", "日本", "\ud800", "\\"]
)
def test_hostile_values_break_no_line(value: str) -> None:
    path = b"/w/" + value.encode("utf-8", "surrogatepass")
    text = metrics([Row(path, "active", value, value, value, 5)], 7)
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
    (info,) = parse(text)["gitstate_workspace_info"]
    assert text.encode() and dict(info)["task"] == dict(info)["agent"]


def test_workspaces_never_share_a_name() -> None:
    """The collector refuses a file that has a sample twice."""
    paths = [b"/w/\xff", rb"/w/\xff", rb"/w/\\xff", b"/w/\x1b", rb"/w/\x1b", b"/w/\n", rb"/w/\n", "/w/é".encode()]
    found = parse(metrics([Row(path, "idle") for path in paths], 7))
    assert len(found["gitstate_workspace_info"]) == len(paths)


def test_workspace_listed_in_two_ways_is_one(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("register")
    link = tmp_path / "link"
    link.symlink_to(ws.path)
    file = tmp_path / "gitstate.prom"
    assert ws.gitstate("status", "--all", str(link), "--prometheus", str(file)).exit_status == 0
    assert states(file.read_text()) == {"idle": 1}


def test_everybody_may_read_the_file_and_nothing_is_left_beside_it(ws: Workspace, tmp_path: Path) -> None:
    directory = tmp_path / "collector"
    directory.mkdir()
    file = directory / "gitstate.prom"
    file.write_text("old\n")
    file.chmod(0o600)
    inode = file.stat().st_ino
    os.umask(0o077)
    assert ws.gitstate("status", "--prometheus", str(file)).exit_status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o644 and file.stat().st_ino != inode
    assert os.listdir(directory) == ["gitstate.prom"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "link to a device", "fifo", "directory", "nowhere"])
def test_only_a_regular_file_is_written(kind: str, ws: Workspace, tmp_path: Path) -> None:
    target, file = tmp_path / "target", tmp_path / "gitstate.prom"
    target.write_text("mine\n")
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    elif kind == "nowhere":
        file = tmp_path / "no" / "gitstate.prom"
    else:
        targets = {"link": target, "dangling link": tmp_path / "gone", "link to a device": Path("/dev/null")}
        file.symlink_to(targets[kind])
    before = sorted(os.listdir(tmp_path))
    for words in ((), ("--watch", "--interval", "0.1")):
        run = ws.gitstate("status", "--all", *words, "--prometheus", str(file))
        assert run.exit_status == 1 and str(file) in run.stderr and "next: " in run.stderr, run
        assert "Traceback" not in run.stderr and run.stdout == b""
    assert sorted(os.listdir(tmp_path)) == before and target.read_text() == "mine\n"
    assert kind != "link" or file.is_symlink()


def test_path_is_seen_from_the_directory_of_the_call(ws: Workspace) -> None:
    ws.mkdir("inside")
    run_gitstate("-C", "inside", "status", "--prometheus", "x.prom", cwd=ws.path)
    assert states((ws.path / "inside" / "x.prom").read_text()) == {"idle": 1}


def test_with_watch_the_file_is_kept_current(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("register")
    directory = tmp_path / "collector"
    directory.mkdir()
    file = directory / "gitstate.prom"
    words = ["status", "--all", "--watch", "--interval", "0.1", "--prometheus", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gitstate", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told: list[bytes] = []
    assert process.stderr is not None
    reader = threading.Thread(target=told.extend, args=(process.stderr,))
    reader.start()
    try:
        wait_until(file.exists, "the file")
        assert states(file.read_text()) == {"idle": 1}
        ws.append("a.txt")
        ws.gitstate("save")
        # Whoever reads it meanwhile reads a whole one, always.
        wait_until(lambda: states(file.read_text()) == {"interrupted": 1}, "the pending save")
        # A directory that goes and comes back is said once, and ends nothing.
        directory.rename(tmp_path / "away")
        wait_until(lambda: told, "the words on it")
        assert os.fsencode(file) in told[0]
        directory.mkdir()
        wait_until(file.exists, "the file again")
    finally:
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read() if process.stdout else b""
        status = process.wait()
        reader.join()
    assert (status, out, len(told)) == (-signal.SIGTERM, b"", 1), told
    assert os.listdir(directory) == ["gitstate.prom"]


def test_dash_prints_the_metrics(ws: Workspace) -> None:
    run = ws.gitstate("status", "--prometheus", "-")
    assert (run.exit_status, run.stderr) == (0, "") and states(run.text) == {"idle": 1}
    assert not os.path.lexists(ws.path / "-")


def test_json_and_file_go_together(ws: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "gitstate.prom"
    run = ws.gitstate("status", "--json", "--prometheus", str(file))
    assert run.json == ws.gitstate("status", "--json").json and states(file.read_text()) == {"idle": 1}
