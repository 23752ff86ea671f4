"""What a save starts while `git status` works: each git takes some milliseconds to start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.recover.test_cost import LOGGING
from tests.support.workspace import Workspace

#: A `git status` that answers when the others have begun, and fails where they never do.
WAITING = """\
#!/bin/sh
case " $* " in *" status "*)
    left=1500
    until grep -q check-ignore '{log}' && grep -q cat-file '{log}'; do
        left=$((left - 1))
        [ $left -gt 0 ] || exit 1
        sleep 0.02
    done ;;
esac
exec '{logging}' "$@"
"""


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_next_gits_start_while_git_status_works(command: str, ws: Workspace, tmp_path: Path) -> None:
    tools, log, logging = tmp_path / "tools", tmp_path / "log", tmp_path / "logging"
    tools.mkdir()
    log.touch()
    logging.write_text(LOGGING.format(log=log, git=shutil.which("git")))
    (tools / "git").write_text(WAITING.format(log=log, logging=logging))
    for script in (logging, tools / "git"):
        script.chmod(0o755)
    ws.append("a.txt", "more\n")
    ws.write("new", "new\n")
    ws.cli_env = {**ws.cli_env, "PATH": f"{tools}:{os.environ['PATH']}"}
    run = ws.gitstate(command, "--json")
    assert run.exit_status == 0 and run.json["left_out"] == [], run
    # Each of them is started once.
    begun = log.read_text().split()
    assert begun.count("check-ignore") == begun.count("cat-file") == begun.count("status") == 1
    assert ws.out("show", f"{run.json['wip_commit']}:new") == "new"
