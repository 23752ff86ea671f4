"""`save --signal`, as a trap calls it, has a deadline: whoever sent the signal waits, and kills what does not end."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from gitstate.git.command import Oid
from gitstate.objects.reader import ObjectReader
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from tests.support.small import left_out
from tests.support.workspace import Workspace


@pytest.fixture
def hurried(ws: Workspace) -> Workspace:
    """A workspace with an edit, and a file that takes seconds to read: a sparse one stands for one that is full."""
    ws.config("gitstate.deadline", "1")
    ws.write("a.txt", "edited\n")
    with open(ws.at("large.bin"), "wb") as file:
        file.truncate(12 << 30)
    return ws


def test_save_for_a_signal_ends_within_the_deadline_of_runs(hurried: Workspace) -> None:
    run = hurried.gitstate("save", "--signal", "TERM", "--json")
    assert run.exit_status == 4, run
    assert left_out(run) == {"large.bin": True}
    assert "deadline" in run.json["left_out"][0]["reason"]
    assert hurried.out("show", f"{run.json['wip_commit']}:a.txt") == "edited"


def test_save_for_a_signal_waits_for_no_filter(ws: Workspace) -> None:
    """Without a deadline the filter would have a day for each file."""
    ws.write(".gitattributes", "*.h filter=hangs\n")
    ws.write("one.h", "one\n")
    ws.commit("filtered")
    ws.config("filter.hangs.clean", ws.script("hang", "exec sleep 100000\n"))
    ws.config("gitstate.filterTimeout", "86400")
    ws.config("gitstate.deadline", "1")
    work = {"one.h": "two\n", "new.h": "new\n", "a.txt": "edited\n"}
    for name, text in work.items():
        ws.write(name, text)
    run = ws.gitstate("save", "--signal", "TERM", "--json")
    assert run.json["result"] == "saved" and "took too long" in run.json["message"], run
    ws.git("-c", "filter.hangs.clean=", "reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-ffdxq")
    ws.config("filter.hangs.clean", "cat")
    assert ws.recover().exit_status == 0
    assert {name: ws.read(name).decode() for name in work} == work


def test_deadline_that_is_named_wins(hurried: Workspace) -> None:
    """With more time the file is read; the save names what it was not asked to bound."""
    hurried.config("gitstate.deadline", "3600")
    run = hurried.gitstate("save", "--signal", "TERM", "--deadline", "1", "--json")
    assert left_out(run) == {"large.bin": True}


def test_unreadable_deadline_costs_no_save(hurried: Workspace) -> None:
    hurried.config("gitstate.deadline", "soon")
    hurried.remove("large.bin")
    run = hurried.gitstate("save", "--signal", "TERM", "--json")
    assert run.exit_status == 0 and run.json["result"] == "saved", run


def test_early_save_of_a_part_reads_each_tree_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of files that changed, it takes most of its time to read the trees that they stand in."""
    names = [f"top{number % 5}/below{number}/file" for number in range(30)]
    for name in names:
        ws.write(name, "committed\n")
    ws.commit()
    for name in names:
        ws.write(name, "edited\n")
    asked: Counter[Oid] = Counter()
    contents = ObjectReader.contents

    def counted(reader: ObjectReader, oids: Sequence[Oid], limit: int | None = None) -> list[tuple[str, bytes] | None]:
        asked.update(oids)
        return contents(reader, oids, limit)

    monkeypatch.setattr(ObjectReader, "contents", counted)
    touched = frozenset(name.encode() for name in names)
    result = save(os.fsencode(ws.path), SaveRequest(unseen=True, touched=touched, stay=True, deadline=60.0))
    assert result.taken is not None and touched <= result.taken.worktree.keys()
    assert [item.path for item in result.left_out] == [b""], "it is one of a part"
    trees = ws.out("ls-tree", "-r", "-d", "--object-only", "HEAD", "top0", "top1").split()
    assert {oid: asked[oid] for oid in trees} == dict.fromkeys(trees, 1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("slow", ["nothing", "status", "diff-files"])
def test_last_save_that_has_no_time_keeps_what_the_early_one_holds(
    slow: str, ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the marker: recover would bring back less than what was saved before."""
    tracked = [f"top{number % 40}/file{number}" for number in range(900)]
    for name in (*tracked, "gone"):
        ws.write(name, "committed\n")
    ws.commit()
    new = [f"new{number % 40}/below/file{number}" for number in range(900)]
    for name in (*tracked, *new):
        ws.write(name, "edited\n")
    ws.remove("gone")
    path = os.fsencode(ws.path)
    early = save(path, SaveRequest(stay=True, largest=4 << 20, deadline=60.0))
    assert early.taken is not None
    # Without any path `diff-files` looks at all files, as `status` does.
    pattern = {"nothing": "never", "status": "*' status '*", "diff-files": "*' status '*|*diff-files*--"}[slow]
    tool = tmp_path / "git"
    tool.write_text(f'#!/bin/sh\ncase "$*" in {pattern}) exec sleep 1000 ;; esac\nexec {shutil.which("git")} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    touched = frozenset(map(os.fsencode, tracked))
    last = save(path, SaveRequest(replaces=early.save_id, older=early.taken, deadline=0.001, touched=touched))
    assert last.result == "saved" and last.save_id != early.save_id
    assert last.left_out, "it had no time for some of them"
    changed = set(ws.out("diff", "--name-only", str(last.base_commit), str(last.wip_commit)).split("\n"))
    assert changed == {*tracked, *new, "gone"}
