"""A git of a save that is killed, as the OOM killer does: the save is taken again, once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.recovering import recovered_from
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

#: The words of the git that is killed when it is started.
WHICH = ["check-ignore", "cat-file", "update-ref"]


def killing(ws: Workspace, which: str, times: int) -> None:
    """The first gits with these words are killed at their start, so many of them."""
    count = ws.outside / "killed"
    count.mkdir()
    body = f"""\
case " $* " in *" {which} "*)
    for number in {" ".join(map(str, range(times)))}; do
        mkdir {count}/$number 2>/dev/null && kill -KILL $$
    done
esac
exec {shutil.which("git")} "$@"
"""
    program = ws.script("git", body)
    program.rename(ws.outside / "git")
    ws.cli_env["PATH"] = f"{ws.outside}:{os.environ['PATH']}"


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", [[], ["--deadline", "20"]], ids=["", "deadline"])
@pytest.mark.parametrize("which", WHICH)
def test_save_whose_git_was_killed_is_taken_again(which: str, options: list[str], tmp_path: Path) -> None:
    ws = three_files(tmp_path)
    ws.append("a.txt", "edited\n")
    ws.write("new", "new\n")
    killing(ws, which, 1)
    run = ws.save(*options)
    assert run.exit_status == 0 and run.json["result"] == "saved", str(run)
    assert os.listdir(ws.outside / "killed") == ["0"]
    ws.cli_env.clear()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-fdq")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert ws.read("new") == b"new\n" and ws.read("a.txt").endswith(b"edited\n")


def test_save_whose_gits_are_killed_each_time_fails(tmp_path: Path) -> None:
    ws = three_files(tmp_path)
    ws.append("a.txt", "edited\n")
    killing(ws, "update-ref", 9)
    run = ws.save()
    assert run.exit_status == 1 and not ws.refs("refs/gitstate/pending"), str(run)
