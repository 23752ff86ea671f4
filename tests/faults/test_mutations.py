"""Mutation tests: each mutation breaks the code on purpose, and its test has to fail.

`MUTATION=REGEX` tries those of that name alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT

from .mutations import MUTATIONS, QUICK, Mutation
from .sweeps import Say


def source(mutation: Mutation) -> str:
    return (ROOT / "gitstate" / mutation.file).read_text("utf-8")


def test_every_mutation_matches_the_code_exactly_once() -> None:
    assert len(MUTATIONS) >= 26
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert {mutation.name for mutation in MUTATIONS} >= set(QUICK)
    stale = {m.name: source(m).count(m.old) for m in MUTATIONS if source(m).count(m.old) != 1}
    assert stale == {}, "a text to be replaced is not there exactly once"


def test_every_mutation_names_an_existing_test() -> None:
    missing = []
    for mutation in MUTATIONS:
        path, name = mutation.test.split("[")[0].split("::")
        file = ROOT / "tests" / path
        if not file.exists() or f"\ndef {name}(" not in file.read_text("utf-8"):
            missing.append(mutation.test)
    assert missing == []


def test_reliability_page_lists_every_mutation() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    missing = [mutation.name for mutation in MUTATIONS if f"| {mutation.name} | `{mutation.test}` |" not in page]
    assert missing == []
    assert f"| {len(MUTATIONS)} mutations |" in page


def run_against(mutation: Mutation, where: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the mutation's test on a copy of the project in which it is applied."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("gitstate", "tests"):
        shutil.copytree(ROOT / name, where / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", where)
    (where / "gitstate" / mutation.file).write_text(source(mutation).replace(mutation.old, mutation.new), "utf-8")
    words = [sys.executable, "-P", "-m", "pytest", "-q", "-rs", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [*words, "-m", "not slow", f"--basetemp={where / 'tmp'}", f"tests/{mutation.test}"],
        cwd=where,
        env={**clean, "PYTHONPATH": os.fspath(where), **mutation.env},
        capture_output=True,
        check=False,
    )


def is_noticed(mutation: Mutation, where: Path, say: Say) -> None:
    done = run_against(mutation, where)
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0 and re.search(r"\d+ skipped", said) and not re.search(r"\d+ passed", said):
        reason = re.search(r"SKIPPED \[\d+\] \S+: (.*)", said)
        pytest.skip(reason[1] if reason else "its test was skipped without a reason")
    assert done.returncode == 1, f"nobody noticed that {mutation.name}: {said[-3000:]}"
    assert re.search(r"\d+ (failed|error)", said), said[-3000:]
    say(f"{mutation.name}: noticed by {mutation.test}")


BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


@pytest.mark.faults
@pytest.mark.parametrize("name", QUICK)
def test_tests_notice_sampled_mutations(name: str, tmp_path: Path, say: Say) -> None:
    is_noticed(BY_NAME[name], tmp_path / "copy", say)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name in BY_NAME if re.search(os.environ.get("MUTATION", ""), name)])
def test_tests_notice_every_mutation(name: str, tmp_path: Path, say: Say) -> None:
    is_noticed(BY_NAME[name], tmp_path / "copy", say)
