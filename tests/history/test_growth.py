"""What commands cost does not grow with the saves, or only as git's own does: processes and requests are counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gitstate.format.archive import pending_archive, read_save
from gitstate.format.find import resolve_save
from gitstate.git import packed, refs
from gitstate.git.command import Git
from gitstate.git.opening import open_repository
from gitstate.history import listing
from gitstate.history.prune import prune
from gitstate.objects.reader import ObjectReader
from gitstate.restore.destroyed import Destroyed
from gitstate.restore.paths import Workspace as FilesOf
from gitstate.save import keeping
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from tests.faults.strace import why_not_strace
from tests.support.past import give_past
from tests.support.workspace import Workspace

#: Saves whose objects are read together.
MANY = 40


class Counts:
    """How often git was started, and how often it was asked for objects and waited for, since the last look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._processes = self._requests = 0
        start, ask = Git.start, ObjectReader._ask

        def started(*args: Any, **named: Any) -> Any:
            self._processes += 1
            return start(*args, **named)

        def asked(reader: ObjectReader, verb: bytes, oids: Any) -> None:
            self._requests += bool(oids)
            ask(reader, verb, oids)

        monkeypatch.setattr(Git, "start", started)
        monkeypatch.setattr(ObjectReader, "_ask", asked)

    def look(self) -> tuple[int, int]:
        found = self._processes, self._requests
        self._processes = self._requests = 0
        return found


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


@pytest.fixture
def ws(ws: Workspace) -> Workspace:
    """A workspace with one save, which was recovered."""
    ws.append("a.txt")
    assert ws.save("--label", "real").exit_status == 0
    assert ws.recover().exit_status == 0
    return ws


def test_prune_waits_for_git_as_often_for_many_saves_as_for_two(ws: Workspace, counts: Counts) -> None:
    give_past(ws, 2)
    repository = open_repository(bytes(ws.path))
    counts.look()
    assert len(prune(repository, dry_run=True, keep_saves=0, keep_days=0).pruned) == 2
    few = counts.look()
    made = give_past(ws, MANY)
    assert len(prune(repository, dry_run=True, keep_saves=0, keep_days=0).pruned) > len(made)
    assert counts.look() == few


def test_prune_reads_no_save_where_none_is_old(ws: Workspace, counts: Counts) -> None:
    made = give_past(ws, MANY)
    repository = open_repository(bytes(ws.path))
    counts.look()
    for keep_saves, keep_days in ((0, 30), (MANY, 0)):
        result = prune(repository, keep_saves=keep_saves, keep_days=keep_days, everything=True)
        assert result.kept == MANY and not result.pruned
        assert counts.look()[1] == 0
    assert {item.save_id for item in prune(repository, keep_saves=MANY - 1, keep_days=0).pruned} == {made[-1]}


def test_prune_reads_the_packed_refs_as_often_for_many_saves_as_for_two(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read_packed = packed.read_packed

    def read(*args: Any, **named: Any) -> Any:
        reads.append(args)
        return read_packed(*args, **named)

    for module in (refs, packed):
        monkeypatch.setattr(module, "read_packed", read)
    counts = []
    for count in (3, MANY):
        give_past(ws, count)
        ws.git("pack-refs", "--all")
        reads.clear()
        assert len(prune(open_repository(bytes(ws.path)), keep_saves=1, keep_days=0).pruned) == count - 1
        counts.append(len(reads))
    assert counts[0] == counts[1]


def test_log_starts_git_as_often_for_many_saves_as_for_two(ws: Workspace, counts: Counts) -> None:
    give_past(ws, 2)
    repository = open_repository(bytes(ws.path))

    def listed() -> list[listing.Entry]:
        return listing.measured(repository, listing.newest_saves(repository, MANY, everything=False)[0])

    counts.look()
    assert [entry.changes and entry.changes.added for entry in listed()] == [0, 1]
    few = counts.look()
    give_past(ws, MANY)
    assert [entry.changes and entry.changes.added for entry in listed()] == [0, *[1] * (MANY - 1)]
    assert counts.look() == few


def test_kept_checkpoint_reads_no_more_for_a_longer_past(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = ObjectReader._ask

    def counted(reader: ObjectReader, verb: bytes, oids: Sequence[str]) -> None:
        asked.extend(oids)
        ask(reader, verb, oids)

    monkeypatch.setattr(ObjectReader, "_ask", counted)
    monkeypatch.setattr(keeping, "_LOOKED_AT", 20)
    give_past(ws, MANY)
    ws.write("new.txt", "new\n")
    kept = save(bytes(ws.path), SaveRequest(kind="checkpoint")).save_id
    ws.remove("new.txt")
    asked.clear()
    save(bytes(ws.path), SaveRequest(kind="checkpoint"))
    assert any(ref.endswith(f"/{kept}") for ref in ws.refs("refs/gitstate/saves"))
    # Of each save that is looked at five objects, each with its size before; some more of the checkpoint itself.
    assert 100 < len(asked) < 300 < 10 * MANY


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
@pytest.mark.parametrize("pending", [True, False])
def test_recovery_opens_no_ref_of_a_long_past(pending: bool, ws: Workspace, tmp_path: Path) -> None:
    """In place, and where only a checkpoint is there: loose refs of saves are as many as there were saves."""
    give_past(ws, 2 * MANY)
    ws.append("a.txt")
    assert ws.gitstate("checkpoint").exit_status == 0
    if pending:
        assert ws.save().exit_status == 0
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=open,openat")
    assert ws.recover().exit_status == 0
    opened = [line for line in trace.read_text().splitlines() if re.search(r"/saves/[^/\"]+/[^/\"]+\"", line)]
    assert "/gitstate/saves/" in trace.read_text()
    # The newest of the last day are read, for work that was destroyed before the save: `_READ` of them.
    assert len(opened) < MANY, opened


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_recovery_reads_the_packed_refs_once(ws: Workspace, tmp_path: Path) -> None:
    """Of ten thousand saves they are a megabyte."""
    give_past(ws, MANY)
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    ws.git("pack-refs", "--all")
    trace, packed_refs = tmp_path / "trace", ws.git_dir / "packed-refs"
    ws.cli_prefix = ("strace", "-qq", "-o", str(trace), "-P", str(packed_refs), "-e", "trace=read,openat")
    assert ws.recover().exit_status == 0
    lines = trace.read_text().splitlines()
    reads = [line for line in lines if line.startswith("read(") and not line.endswith("= 0")]
    # Once more in each of the two transactions, while git holds the locks on what is to move.
    assert len(reads) == 3 < len([line for line in lines if line.startswith("openat(")])


def test_search_for_destroyed_work_waits_for_git_as_often_for_six_checkpoints_as_for_two(
    ws: Workspace, counts: Counts
) -> None:
    def requests(checkpoints: int) -> int:
        for number in range(checkpoints):
            # What is removed keeps the checkpoint before it.
            name = f"scratch-{checkpoints}-{number}"
            ws.write(name, f"{name}\n")
            assert ws.gitstate("checkpoint", "--task-id", "T-0").exit_status == 0
            ws.remove(name)
        assert ws.save(task_id="T-1").exit_status == 0
        repository = open_repository(bytes(ws.path))
        archive = pending_archive(repository)
        assert archive is not None
        with ObjectReader(repository.git) as reader:
            save = read_save(archive, reader)
            search = Destroyed(FilesOf.of(repository, repository.git, reader), save)
            counts.look()
            # They are of another task: all are read.
            assert search.find() is None
            found = counts.look()[1]
        assert ws.recover().exit_status == 0
        return found

    first = requests(2)
    assert requests(4) == first, "those of before are there, too"


def test_label_is_found_without_a_wait_for_each_save(ws: Workspace, counts: Counts) -> None:
    made = give_past(ws, MANY)
    repository = open_repository(bytes(ws.path))
    counts.look()
    assert resolve_save(repository, "past 1") == made[0]
    first = counts.look()
    assert resolve_save(repository, f"past {MANY - 1}") == made[-1]
    assert counts.look() == first


def test_damaged_save_hides_no_other(ws: Workspace) -> None:
    made = give_past(ws, 4)
    repository = open_repository(bytes(ws.path))
    (ref,) = [name for name in ws.refs("refs/gitstate/saves") if name.endswith(made[1])]
    manifest = ws.out("rev-parse", f"{ref}:manifest.json").strip()
    loose = ws.common_dir / "objects" / manifest[:2] / manifest[2:]
    loose.chmod(0o644)
    loose.write_bytes(b"damaged")
    entries = listing.measured(repository, listing.newest_saves(repository, 9, everything=False)[0])
    assert [entry.manifest is None for entry in entries] == [False, False, True, False]
    assert [entry.changes is None for entry in entries] == [False, False, True, False]
    kept = prune(repository, keep_saves=0, keep_days=0, dry_run=True)
    assert {item.save_id for item in kept.pruned} == {entry.save_id for entry in entries if entry.manifest}
