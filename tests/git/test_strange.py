"""What a configuration includes is read as git reads it, without git: that would wait at a FIFO."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.strange import includes, lines_of, strange_lines
from tests.support.workspace import run_git

VALUES = [
    "/f",
    '"/f"',
    "/f ; comment",
    "/f # comment",
    '"/f" # comment',
    '"/f # none"',
    '"/f ; none"  ; comment',
    "/f;comment",
    "/with space/f ",
    '/a" "b',
    r"/a\"b",
    r'"/a\\b"',
    r"/a\tb",
    "\t/f\t",
    '"/a" "b"',
    "  /a  b  ",
    '""',
]


@pytest.mark.parametrize("value", VALUES)
def test_value_of_an_include_is_the_one_that_git_reads(value: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"[include]\n\tpath ={value}\n")
    told = run_git(tmp_path, "config", "--file", str(config), "--no-includes", "-z", "--get", "include.path")
    assert [name for _, name, _ in includes(lines_of(os.fsencode(config)), b"/")] == [told.rstrip(b"\0")]


@pytest.mark.parametrize("value", ["{} ; mine", '"{}" # mine', "{}"])
def test_fifo_behind_a_comment_is_found(value: str, tmp_path: Path) -> None:
    config, fifo = tmp_path / "config", tmp_path / "fifo"
    os.mkfifo(fifo)
    config.write_text(f"[include]\n\tpath = {value.format(fifo)}\n")
    assert [path for path, _ in strange_lines(os.fsencode(config)).values()] == [os.fsencode(fifo)]
