"""`bench/exactness.py` tells what came back exactly from what was lost, and from what was refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.environment import ROOT


def verdicts(states: str, *options: str) -> dict[tuple[str, str, str], str]:
    """The verdict on each tool, state and way of loss."""
    command = [sys.executable, str(ROOT / "bench" / "exactness.py"), "--states", states, "--json", "--jobs", "1"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, encoding="utf-8", timeout=300, check=True)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    return {(outcome["tool"], outcome["state"], outcome["loss"]): outcome["verdict"] for outcome in outcomes}


def test_bench_tells_exact_from_lost_and_refused() -> None:
    found = verdicts("everything_at_once,merge_conflict", "--only", "gitstate,git stash")
    assert found == {
        **{("gitstate", "everything_at_once", loss): "exact" for loss in ("in place", "wiped")},
        **{("gitstate", "merge_conflict", loss): "exact" for loss in ("in place", "wiped")},
        # Empty directories and the mode 0600 of an untracked file are gone, and git says nothing.
        **{("git stash", "everything_at_once", loss): "wrong" for loss in ("in place", "wiped")},
        **{("git stash", "merge_conflict", loss): "refused" for loss in ("in place", "wiped")},
    }


def test_bench_believes_no_tool_that_only_claims_success() -> None:
    found = verdicts("edited", "--only", "gitstate", "--gitstate", "true")
    assert found == {("gitstate", "edited", "in place"): "exact", ("gitstate", "edited", "wiped"): "wrong"}


def test_bench_kills_what_does_not_end_and_goes_on_from_its_record(tmp_path: Path) -> None:
    program, calls, record = tmp_path / "endless", tmp_path / "calls", tmp_path / "record"
    program.write_text(f"#!/bin/sh\n[ $1 = --version ] || {{ echo >>{calls}; sleep 1000 & wait; }}\n")
    program.chmod(0o755)
    options = ("--only", "gitstate", "--gitstate", str(program), "--limit", "0.3", "--record", str(record))
    expected = {("gitstate", "edited", loss): "did not end" for loss in ("in place", "wiped")}
    assert verdicts("edited", *options) == expected
    assert calls.read_text() == "\n" * 2
    # The second run finds one outcome, and a line that the first could not finish.
    first, second = record.read_text().splitlines(keepends=True)
    record.write_text(first + second[:20])
    assert verdicts("edited", *options) == expected
    assert calls.read_text() == "\n" * 3
