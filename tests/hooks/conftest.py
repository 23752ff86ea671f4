"""The stage of a loop, for the tests of the shell library."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hooks.stage import AGENT, MORE_SHELLS, Stage, words_of_shell
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import GITSTATE

#: Its tests choose their shell.
ZSH_ALONE = "tests.hooks.test_zsh"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of the library in bash, and in the shells of GITSTATE_TEST_SHELLS."""
    if MORE_SHELLS and "stage" in metafunc.fixturenames and metafunc.module.__name__ != ZSH_ALONE:
        metafunc.parametrize("stage", ("bash", *MORE_SHELLS), indirect=True)


@pytest.fixture
def stage(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    """The parameter, where there is one, is the shell that sources the library."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to find leftover processes: run on Linux with /proc mounted")
    ws = make(STATES["clean"], templates, tmp_path)
    directory = tmp_path / "stage"
    programs = directory / "bin"
    programs.mkdir(parents=True)
    gitstate = f'#!/bin/sh\nexec {shlex.join(GITSTATE)} "$@"\n'
    agent = f"#!/usr/bin/env bash\n{AGENT}"
    for name, text in {"gitstate": gitstate, "claude": agent, "kimi": agent}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAGE", str(directory))
    found = Stage(ws, directory, words_of_shell(getattr(request, "param", "bash")))
    found.manner("stay")
    try:
        yield found
    finally:
        found.end()
