"""What a recovery costs, in numbers that no machine changes: processes, syncs, and modules loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.strace import why_not_strace
from tests.states import STATES, make
from tests.support.agents import hooks_are_done, wait_until
from tests.support.recovering import recovered_from
from tests.support.repositories import Templates
from tests.support.workspace import GITSTATE, Workspace

FILES = 60
OLD_NS = 1_700_000_000_000_000_000
#: Writes down each subcommand of git, and is git.
LOGGING = """\
#!/bin/sh
skip=
for word in "$@"; do
    if [ -n "$skip" ]; then skip=; continue; fi
    case "$word" in -c|-C) skip=1 ;; -*) ;; *) break ;; esac
done
echo "$word" >>'{log}'
echo "$*" >>'{log}.words'
exec '{git}' "$@"
"""


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    """A workspace with many changed files, some of them staged, and one that is new."""
    ws = make(STATES["clean"], templates, tmp_path)
    for number in range(FILES):
        ws.write(f"many/file{number}", f"file {number}\n")
    ws.add("many")
    ws.commit()
    for name in ws.out("ls-files").splitlines():
        # Git, too, looks into a file that is as young as its index.
        os.utime(ws.path / name, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    ws.git("update-index", "--refresh")
    for number in range(FILES):
        ws.write(f"many/file{number}", f"changed {number}\n")
    ws.add("many/file1", "many/file2")
    ws.write("many/new", "new\n")
    return ws


def saved_and_wiped(ws: Workspace) -> None:
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-fdq")


#: The gits that a recovery needs in a small repository.
FEW = ["cat-file", "config", "update-ref"]
#: Those that look at many files, and compare large trees, beside it.
BY_GIT_IF_LARGE = ["diff-files", "diff-tree"]


def started_by_recover(ws: Workspace, tmp_path: Path, exits: Sequence[int] = (0,)) -> list[str]:
    """The subcommands of git that a recovery runs, sorted.

    Without the one that lists files which are synced alone, where much data of other programs waits for the disk.
    """
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "git").write_text(LOGGING.format(log=log, git=shutil.which("git")))
    (tools / "git").chmod(0o755)
    ws.cli_env = {**ws.cli_env, "PATH": f"{tools}:{os.environ['PATH']}"}
    assert recovered_from(ws.recover(), exits=exits)["verdict"] in ("restore", "changed")
    started = sorted(log.read_text().split())
    if "ls-files" in started:
        started.remove("ls-files")
    return started


@pytest.mark.parametrize("filters", [False, True])
def test_recovery_in_place_starts_each_git_once(filters: bool, ws: Workspace, tmp_path: Path) -> None:
    """Also where a filter is set up for all repositories of a user, as by `git lfs install`."""
    if filters:
        ws.config("filter.x.clean", "cat")
        ws.config("filter.x.smudge", "cat")
    assert ws.save().exit_status == 0
    assert started_by_recover(ws, tmp_path) == FEW


def test_recovery_of_files_that_git_reset_needs_no_git_more(ws: Workspace, tmp_path: Path) -> None:
    saved_and_wiped(ws)
    assert started_by_recover(ws, tmp_path) == FEW


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["touched", "edited", "gone"])
def test_file_that_is_not_as_it_was_is_shown_to_git(how: str, ws: Workspace, tmp_path: Path) -> None:
    """It is not one of those that were saved, and git alone tells whether it differs."""
    base = ws.read("a.txt")
    saved_and_wiped(ws)
    if how == "gone":
        ws.remove("a.txt")
    elif how == "edited":
        ws.write("a.txt", "edited since\n")
    else:
        os.utime(ws.path / "a.txt", ns=(1, 1))
    assert "diff-files" in started_by_recover(ws, tmp_path)
    assert ws.read("a.txt") == (b"edited since\n" if how == "edited" else base)


@pytest.mark.parametrize("how", ["another file", "a saved file"])
def test_what_was_staged_since_is_found_without_git(how: str, ws: Workspace, tmp_path: Path) -> None:
    saved_and_wiped(ws)
    path = "a.txt" if how == "another file" else "many/file3"
    ws.write(path, "staged since\n")
    ws.add(path)
    started = started_by_recover(ws, tmp_path, exits=(0, 4))
    assert "diff-tree" not in started
    assert ws.out("ls-files", "-s", path) == f"100644 {ws.out('hash-object', path)} 0\t{path}"


def test_index_knows_the_stat_data_of_what_was_written(ws: Workspace) -> None:
    """Git's plumbing looks at no content where stat data differ: it calls such a file changed."""
    before, index = ws.git("diff-files", "--raw"), ws.git_dir / "index"
    aged = index.stat().st_mtime_ns
    saved_and_wiped(ws)
    assert ws.recover().exit_status == 0
    # Git looks into files that are not older than their index.
    assert index.stat().st_mtime_ns == aged
    assert ws.git("diff-files", "--raw") == before
    assert b"many/file1\n" not in before and b"many/file3\n" in before
    # Of the same size, and as old as what was written.
    info = os.stat(ws.path / "many/file1")
    (ws.path / "many/file1").write_text("CHANGED 1\n")
    os.utime(ws.path / "many/file1", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert b"many/file1\n" in ws.git("diff-files", "--raw")


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_written_files_are_synced_by_one_call_or_once_each(ws: Workspace, tmp_path: Path) -> None:
    """The one call waits for the data of all programs: where much of that waits, each file is synced alone."""
    saved_and_wiped(ws)
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2"
    ws.cli_prefix = ("strace", "-f", "-qq", "-y", "-o", str(trace), "-e", calls)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "restore" and len(answer["restored"]) == FILES + 1
    lines = trace.read_text().splitlines()
    placed = [number for number, line in enumerate(lines) if re.search(r"rename\w*\(.*write-", line)]
    assert len(placed) >= FILES
    # None of them has its name before its content is on the disk.
    text = "\n".join(lines[: placed[0]])
    written = re.findall(r"fsync\(\d+<[^>]*/gitstate/write-", text)
    assert len(written) in (0, len(answer["restored"]))
    if not written:
        assert "syncfs(" in text


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_recovery_in_place_opens_a_directory_once_for_its_files(ws: Workspace, tmp_path: Path) -> None:
    assert ws.save().exit_status == 0
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-o", str(trace), "-e", "trace=openat")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    opened = re.findall(r'openat\(\d+, "many", .*O_DIRECTORY', trace.read_text())
    assert len(opened) < 5, trace.read_text()


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_recovery_in_place_reads_nothing_of_the_next_index(ws: Workspace, tmp_path: Path) -> None:
    """It has as many entries as there are tracked files, and no file was written."""
    assert ws.save().exit_status == 0
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-y", "-o", str(trace), "-e", "trace=read,pread64,rename")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    text = trace.read_text()
    assert "next-index" in text
    assert not re.findall(r"read\w*\(\d+<[^>]*/next-index>", text)


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
@pytest.mark.parametrize("wiped", [False, True])
def test_recovery_syncs_few_files_of_its_own(wiped: bool, ws: Workspace, tmp_path: Path) -> None:
    """Each is a transaction of the disk. Those of git, and of files of the worktree, are not counted."""
    if wiped:
        saved_and_wiped(ws)
    else:
        assert ws.save().exit_status == 0
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    synced = re.findall(r"sync\(\d+<(.*)>\)", trace.read_text())
    ours = [path for path in synced if "/.git" in path and "/write-" not in path]
    # Where much data of other programs waits for the disk, git's files are synced one by one.
    assert 0 < len(ours) <= 2 * MOST_SYNCS + (MOST_SYNCS if str(ws.git_dir / "HEAD") in synced else 0), ours


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_branch_and_index_come_to_the_disk_together(ws: Workspace, tmp_path: Path) -> None:
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-y", "-s", "400", "-o", str(trace), "-e", "trace=write,fsync,rename")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    text = trace.read_text()
    begun, synced = text.index("start\\0update refs/heads/"), text.index("next-index>")
    assert begun < synced < text.index("rename(", synced)
    assert ws.out("rev-parse", "HEAD") == base


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_directories_of_restored_files_are_synced_with_all_else(ws: Workspace, tmp_path: Path) -> None:
    for number in range(12):
        ws.write(f"new{number}/file", "new\n")
    saved_and_wiped(ws)
    trace = tmp_path / "trace"
    ws.cli_prefix = ("strace", "-qq", "-y", "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync,syncfs")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    text = trace.read_text()
    alone = re.findall(rf"fsync\(\d+<{re.escape(str(ws.path))}/new\d+>", text)
    # By one call, or once each where much data of other programs waits for the disk, which may change meanwhile.
    assert len(alone) == len(set(alone)) and len(alone) in ((0, 12) if "syncfs(" in text else (12,))


def loaded_by_recovery(ws: Workspace) -> set[str]:
    ws.cli_env = {**ws.cli_env, "PYTHONPROFILEIMPORTTIME": "1"}
    run = ws.recover()
    assert run.exit_status == 0
    return set(re.findall(r"\| +([\w.]+)$", run.stderr, re.MULTILINE))


def test_recovery_in_place_loads_nothing_that_is_rare(ws: Workspace) -> None:
    assert ws.save().exit_status == 0
    loaded = loaded_by_recovery(ws)
    assert "gitstate.recover.recover" in loaded
    rare = {"click", "git", "ctypes", "subprocess", "json", "gitstate.save.save", "gitstate.recover.single_files"}
    rare |= {
        "gitstate.restore.nested",
        "gitstate.snapshot.read",
        "gitstate.agents.sessions",
        "gitstate.recover.made_up",
        "gitstate.git.attributes",
        "gitstate.git.entries",
        "gitstate.git.status",
    }
    assert not loaded & rare
    ours = {name for name in loaded if name.partition(".")[0] == "gitstate"}
    assert len(ours) <= MOST_MODULES, sorted(ours)


#: How many files and directories in the git directory a recovery syncs itself.
MOST_SYNCS = 11
#: How many modules of ours a recovery in place loads: each costs a fraction of a millisecond.
MOST_MODULES = 62


@pytest.mark.parametrize("talks", [False, True])
def test_recovery_of_an_agents_session_loads_nothing_slow(talks: bool, ws: Workspace, hermetic: Path) -> None:
    session = "0b1c9a52-0000-4000-8000-000000000001"
    transcript = hermetic / ".claude" / "projects" / str(ws.path).replace("/", "-") / f"{session}.jsonl"
    if talks:
        transcript.parent.mkdir(parents=True)
        transcript.write_text('{"n": 1}\n')
    event = {"hook_event_name": "Stop", "session_id": session, "cwd": str(ws.path), "transcript_path": str(transcript)}
    hook = [*GITSTATE, "hook", "claude"]
    subprocess.run(hook, input=json.dumps(event), encoding="utf-8", cwd=ws.path, check=True)
    wait_until(lambda: hooks_are_done(ws.git_dir), "what the hook has begun")
    assert ws.save().exit_status == 0
    loaded = loaded_by_recovery(ws)
    # What gives a transcript back is loaded where one is kept.
    assert ("gitstate.conversation.give_back" in loaded) == talks
    slow = loaded & {"click", "json", "re", "enum", "typing", "contextlib", "functools", "subprocess"}
    assert not slow


def test_nothing_that_head_has_is_saved_once_more(ws: Workspace) -> None:
    saved_and_wiped(ws)
    ws.write("later", "untouched by the recovery\n")
    answer = recovered_from(ws.recover())
    assert answer["safety_save"] is None
    assert ws.read("later") == b"untouched by the recovery\n"
    assert ws.read("many/file1") == b"changed 1\n"
    undone = ws.gitstate("undo")
    assert undone.exit_status == 0, undone
    assert ws.read("many/file1") == b"file 1\n"
    assert not (ws.path / "many/new").exists()


@pytest.mark.parametrize("how", ["staged by another", "executable"])
def test_what_head_lacks_is_saved_before_it_is_replaced(how: str, ws: Workspace) -> None:
    saved_and_wiped(ws)
    if how == "executable":
        ws.chmod("many/file1", 0o755)
    else:
        # What the save has in its index, and HEAD has not.
        ws.remove("many/file3")
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["safety_save"] is not None


def make_index_large(ws: Workspace) -> None:
    """So large that it is not taken apart by us; a file is changed then."""
    for number in range(400):
        ws.write(f"{'d' * 240}/{'e' * 240}/{'f' * 240}/{number}", "long\n")
    ws.add("d" * 240)
    ws.commit()
    ws.write("many/file1", "edited\n")
    assert (ws.git_dir / "index").stat().st_size > 256 << 10


def test_no_git_compares_a_large_index_that_notes_the_tree_of_head(ws: Workspace, tmp_path: Path) -> None:
    make_index_large(ws)
    saved_and_wiped(ws)
    started = started_by_recover(ws, tmp_path)
    assert "diff-index" not in started and started.count("diff-tree") == 1


@pytest.mark.parametrize("since", ["nothing", "staged"])
def test_no_git_compares_a_large_index_that_is_as_the_save_left_it(since: str, ws: Workspace, tmp_path: Path) -> None:
    make_index_large(ws)
    assert ws.save().exit_status == 0
    if since == "staged":
        ws.write("a.txt", "staged since\n")
        ws.add("a.txt")
    assert ("diff-index" in started_by_recover(ws, tmp_path)) == (since == "staged")
    assert [name for name in os.listdir(ws.git_dir / "gitstate") if name.startswith(("index.", "left."))] == []


def test_no_git_lists_an_index_that_hides_nothing(ws: Workspace, tmp_path: Path) -> None:
    """The save knows. An index of so many bytes is not taken apart by us."""
    make_index_large(ws)
    assert ws.save().exit_status == 0
    assert started_by_recover(ws, tmp_path) == sorted([*FEW, *BY_GIT_IF_LARGE])
    assert "ls-files -z -v" not in (tmp_path / "log.words").read_text()


def test_kept_index_that_was_torn_inside_is_not_used(ws: Workspace) -> None:
    """Its size, its time and its checksum are those of the saved one: a power cut may leave it so."""
    before, status = ws.git("ls-files", "-s", "--debug"), ws.status()
    saved_and_wiped(ws)
    (kept,) = ws.git_dir.glob("gitstate/index.2*")
    info, data = kept.stat(), bytearray(kept.read_bytes())
    data[100:300] = bytes(200)
    kept.unlink()
    kept.write_bytes(data)
    os.utime(kept, ns=(info.st_atime_ns, info.st_mtime_ns))
    with ws.in_another_boot():
        assert recovered_from(ws.recover())["verdict"] == "restore"
    assert ws.status() == status
    assert without_stat_data(ws.git("ls-files", "-s", "--debug")) == without_stat_data(before)


def without_stat_data(listed: bytes) -> list[bytes]:
    return [line for line in listed.splitlines() if not line.startswith(b"  ")]


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
def test_saves_before_are_read_together(ws: Workspace, tmp_path: Path) -> None:
    """What a checkpoint before the save holds is looked for among all of that day: git is not asked for each."""
    asked = []
    for name in ("few", "many"):
        for number in range(1 if name == "few" else 12):
            ws.write("many/file5", f"{name} {number}\n")
            assert ws.save().exit_status == 0
            assert ws.recover().exit_status == 0
        assert ws.save().exit_status == 0
        ws.cli_prefix = ("strace", "-qq", "-y", "-o", str(tmp_path / name), "-e", "trace=write")
        assert recovered_from(ws.recover())["verdict"] == "restore"
        ws.cli_prefix = ()
        asked.append(len(re.findall(r'write\(\d+<pipe:[^>]*>, "(?:info|contents) ', (tmp_path / name).read_text())))
    assert asked[1] <= asked[0] + 6, asked
