"""What a save holds where there is no time for all of it, and trees that are deep, large or full of holes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.patched import patient
from tests.support.small import done, left_out, recover, save
from tests.support.workspace import Workspace


@contextmanager
def deep_directory(ws: Workspace, levels: int) -> Iterator[bytes]:
    """A file below so many directories; its path relative to the top. Removed at the end: few programs can."""
    top = os.open(ws.path, os.O_RDONLY | os.O_DIRECTORY)
    below = top
    for _ in range(levels):
        os.mkdir("d", dir_fd=below)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=below)
        if below != top:
            os.close(below)
        below = inner
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=below))
    os.close(below)
    os.close(top)
    try:
        yield b"d/" * levels + b"f"
    finally:
        subprocess.run(["rm", "-rf", ws.at("d")], check=True)


@pytest.mark.parametrize("levels", [900, 1_500])
def test_deep_tree_is_saved_and_comes_back(ws: Workspace, levels: int) -> None:
    ws.remove("d")
    ws.commit()
    ws.write("a", "a1\n")
    with deep_directory(ws, levels) as path:
        save(ws)
        assert ws.git("rev-parse", b"HEAD:" + path)
        ws.git("reset", "--hard", "-q", "HEAD~1")
        subprocess.run(["rm", "-rf", ws.at("d")], check=True)
        recover(ws)
        assert os.path.exists(os.path.join(os.fsencode(ws.path), path))
    assert ws.read("a") == b"a1\n"


def test_tree_that_is_too_deep_for_a_path_is_named_and_costs_nothing_else(ws: Workspace) -> None:
    ws.remove("d")
    ws.commit()
    ws.write("a", "a1\n")
    with deep_directory(ws, 2_200):
        run = done(ws.gitstate("save", "--json"), 4)
        assert any(path.startswith("d/") and lost for path, lost in left_out(run).items())
    assert ws.out("show", f"{run.json['wip_commit']}:a") == "a1"


def test_tracked_edit_comes_before_many_untracked_files(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    count = 20_000
    for number in range(count):
        if number % 100 == 0:
            os.makedirs(ws.at(f"build/{number // 100}"))
        (ws.path / f"build/{number // 100}/{number}").touch()
    run = patient(ws, "save", "--json", "--deadline", "0.2")
    assert run.exit_status == 4, run
    assert ws.out("show", f"{run.json['wip_commit']}:a") == "a1"
    held = len(ws.out("ls-tree", "-r", "--name-only", run.json["wip_commit"], "build").splitlines())
    assert held < count
    named = [item for item in run.json["left_out"] if item["path"].split("/")[0] == "build"]
    assert named and all("deadline" in item["reason"] and item["lost"] for item in named)
    assert len(named) < 3_000, "of very many paths the directories are listed"


def test_huge_sparse_file_costs_nothing_else(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    with open(ws.at("disk.img"), "wb") as file:
        file.truncate(1 << 40)
        file.write(b"data")
    run = done(ws.gitstate("save", "--json"), 4)
    assert left_out(run) == {"disk.img": True}
    assert ws.out("show", f"{run.json['wip_commit']}:a") == "a1"
    recover(ws)
    assert os.stat(ws.at("disk.img")).st_size == 1 << 40


def test_deadline_ends_a_save_inside_a_file(ws: Workspace) -> None:
    """It would take seconds to read: a sparse file stands for one that is full."""
    ws.write("a", "a1\n")
    ws.write("new", "new\n")
    with open(ws.at("large.bin"), "wb") as file:
        file.truncate(12 << 30)
    run = done(patient(ws, "save", "--json", "--deadline", "1"), 4)
    assert left_out(run) == {"large.bin": True}
    assert "deadline" in run.json["left_out"][0]["reason"]
    assert ws.out("show", f"{run.json['wip_commit']}:new") == "new"
    packs = ws.common_dir / "objects" / "pack"
    assert not [name for name in os.listdir(packs) if name.startswith("gitstate_tmp")]


def test_holes_stay_holes(ws: Workspace) -> None:
    with open(ws.at("disk.img"), "wb") as file:
        file.truncate(100 << 20)
        file.write(b"data")
    used = os.stat(ws.at("disk.img")).st_blocks
    if used * 512 > 50 << 20:
        pytest.skip("this file system has no sparse files")
    save(ws)
    packs = ws.common_dir / "objects" / "pack"
    assert sum(path.stat().st_size for path in packs.iterdir()) < 10 << 20
    content = ws.read("disk.img")
    ws.remove("disk.img")
    recover(ws)
    assert ws.read("disk.img") == content
    assert os.stat(ws.at("disk.img")).st_blocks * 512 < 50 << 20


def test_filter_that_hangs_costs_its_file_alone(ws: Workspace) -> None:
    """`git status` runs it too, to see whether the file changed."""
    ws.config("filter.slow.clean", "sleep 100; cat")
    ws.write(".gitattributes", "b filter=slow\n")
    ws.git("-c", "filter.slow.clean=cat", "add", "-A")
    ws.git("-c", "filter.slow.clean=cat", "commit", "-q", "-m", "attributes")
    ws.write("a", "a1\n")
    ws.write("b", "b1\n")
    begun = time.monotonic()
    run = patient(ws, "save", "--json", "--deadline", "1")
    assert time.monotonic() - begun < 60
    assert run.json["result"] == "saved", run
    assert ws.out("show", f"{run.json['wip_commit']}:a") == "a1"


def test_filter_that_takes_all_the_time_costs_no_bytes(ws: Workspace) -> None:
    """What is there is read before anything is converted: neither these files nor those after them are lost."""
    ws.config("filter.slow.clean", "cat")
    ws.write(".gitattributes", "*.s filter=slow\n")
    ws.write("b.s", "b\n")
    ws.commit()
    ws.config("filter.slow.clean", "sleep 20; cat")
    work = {name: f"edited {name}\n" for name in ("b.s", "new.s", "other.s")} | {"plain": "more\n" * 50_000}
    for name, text in work.items():
        ws.write(name, text)
    run = done(patient(ws, "save", "--json", "--deadline", "3"))
    assert left_out(run) == {}
    assert "took too long" in run.json["message"]
    ws.config("filter.slow.clean", "cat")
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-ffdxq")
    recover(ws)
    assert {name: ws.read(name).decode() for name in work} == work


@pytest.mark.parametrize("ending", ["", "more than before\n"])
def test_log_that_grows_all_the_time_is_saved(ws: Workspace, ending: str) -> None:
    writer = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write('line\\n')\n    time.sleep(0.0005)\n"
    ws.write("log", "start\n" + ending)
    with subprocess.Popen([sys.executable, "-c", writer, ws.at("log")]) as log:
        try:
            for _ in range(3):
                run = done(ws.gitstate("checkpoint", "--json"))
                assert run.json["left_out"] == [], run
                assert ws.out("show", f"{run.json['wip_commit']}:log").startswith("start")
        finally:
            log.kill()


def test_few_new_files_come_before_the_many_of_a_program(ws: Workspace) -> None:
    """Even where the deadline passes at once, and though the others are newer."""
    ws.write("a", "a1\n")
    ws.write("new by hand", "new\n")
    ws.write("made by hand/new", "new too\n")
    os.mkdir(ws.at("build"))
    for number in range(3_000):
        (ws.path / f"build/{number}").touch()
    run = done(patient(ws, "save", "--json", "--deadline", "0.001"), 4)
    held = set(ws.out("ls-tree", "-r", "-z", "--name-only", run.json["wip_commit"]).split("\0"))
    assert {"new by hand", "made by hand/new"} < held
    assert ws.out("show", f"{run.json['wip_commit']}:a") == "a1"
    assert any(path.split("/")[0] == "build" and lost for path, lost in left_out(run).items())
