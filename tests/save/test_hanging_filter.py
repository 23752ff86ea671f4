"""A filter that never ends: the save goes on without it, and lets go of the workspace."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.agents import ends
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


@pytest.fixture
def filtered(ws: Workspace) -> Workspace:
    """A workspace in which `*.h` goes through a filter that hangs for all but one content."""
    ws.write(".gitattributes", "*.h filter=hangs\n*.g filter=works\n")
    for name in ("one.h", "two.h", "calm.h", "one.g"):
        ws.write(name)
    ws.commit("filtered")
    ws.config("gitstate.filterTimeout", "2")
    ws.config("filter.works.clean", "tr a-y b-z")
    return ws


def _work(ws: Workspace) -> None:
    for name in ("one.h", "two.h", "new.h"):
        ws.write(name, f"edited {name}\n")
    ws.write("one.g", "text that is converted\n")
    ws.append("a.txt")


OFF = ("-c", "filter.hangs.clean=", "-c", "filter.hangs.process=", "-c", "filter.hangs.required=false")


@pytest.mark.sample(7)
@pytest.mark.parametrize("step", ["clean", "process"])
@pytest.mark.parametrize("required", ["true", "false"])
@pytest.mark.parametrize("is_left_out", [False, True], ids=["", "left-out"])
def test_save_goes_on_without_a_filter_that_hangs(
    is_left_out: bool, step: str, required: str, filtered: Workspace
) -> None:
    """Also where a sparse checkout leaves the attributes out: git reads them in the index."""
    ws = filtered
    if is_left_out:
        ws.git("sparse-checkout", "set", "--no-cone", "/*", "!.gitattributes")
    _work(ws)
    before = {name: ws.read(name) for name in ("one.h", "two.h", "new.h", "one.g", "a.txt", "calm.h")}
    pids = ws.outside / "pids"
    ws.config(f"filter.hangs.{step}", ws.script("hang", f"echo $$ >>{pids}\nexec sleep 100000\n"))
    ws.config("filter.hangs.required", required)
    saved = saved_from(ws.save())
    assert "took too long" in str(saved.document["message"])
    assert ws.git("cat-file", "blob", f"{saved.wip}:one.g") == b"ufyu uibu jt dpowfsufe\n", "the others are converted"
    started = [int(line) for line in pids.read_text().split()]
    assert started and all(ends(pid) for pid in started), "its filter lives on"
    assert len(started) <= 3, "it runs once for the status, once without it, and for one file"
    ws.git(*OFF, "reset", "-q", "--hard", "HEAD~1")
    ws.git(*OFF, "clean", "-ffdxq")
    answer = recovered_from(ws.recover())
    assert answer["kept"] == []
    assert {name: ws.read(name) for name in before} == before


def test_filter_that_is_slow_and_ends_converts(filtered: Workspace) -> None:
    """The limit is for one file: many that take a while each are all converted."""
    ws = filtered
    ws.config("gitstate.filterTimeout", "20")
    ws.config("filter.hangs.clean", "sleep 0.1; tr a-y b-z")
    _work(ws)
    before = fingerprint(ws.path)
    saved = saved_from(ws.save())
    assert saved.document["message"] is None
    wipe(ws)
    recovered_from(ws.recover())
    assert before.without([b"calm.h"]).diff(fingerprint(ws.path).without([b"calm.h"])) == []


def test_limit_that_is_no_number_is_refused(filtered: Workspace) -> None:
    filtered.config("gitstate.filterTimeout", "soon")
    run = filtered.save()
    assert run.exit_status == 2
    assert "gitstate.filterTimeout" in run.stderr
    assert not filtered.refs("refs/gitstate")


def test_workspace_is_free_after_a_filter_hung(filtered: Workspace) -> None:
    ws = filtered
    _work(ws)
    ws.config("filter.hangs.clean", "exec sleep 100000")
    saved_from(ws.save())
    ws.append("b.txt")
    ws.config("filter.hangs.clean", "cat")
    again = saved_from(ws.save("--wait", "60"))
    assert os.path.exists(ws.git_dir / "gitstate" / "lock")
    assert again.document["result"] == "saved"


def test_save_without_room_for_an_index_keeps_the_bytes(ws: Workspace) -> None:
    """Git can't convert by attributes that only its index has: nothing of that may cost the save."""
    ws.write(".gitattributes", "*.w eol=crlf\n")
    ws.write("one.w", "one\r\n")
    ws.commit("windows")
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!.gitattributes")
    ws.write("one.w", "edited\r\n")
    fails = f'case "$GIT_INDEX_FILE" in */checkout/index) exit 128;; esac\nexec {shutil.which("git")} "$@"\n'
    tools = ws.outside / "tools"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\n" + fails)
    (tools / "git").chmod(0o755)
    as_before, ws.cli_env = ws.cli_env, {**ws.cli_env, "PATH": f"{tools}:{os.environ['PATH']}"}
    saved_from(ws.save())
    ws.cli_env = as_before
    wipe(ws)
    recovered_from(ws.recover())
    assert ws.read("one.w") == b"edited\r\n"
