"""What a save holds of a repository inside may be forged, and what stands in its place may be somebody else's."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recover.test_inside import a_clone, a_submodule, state_of, wiped, wiped_with_modules
from tests.support.oracle import fingerprint
from tests.support.workspace import Run, Workspace


def forge(ws: Workspace, change: dict[str, Any]) -> None:
    """Change the record of the one repository that the saves hold."""
    for ref, tip in ws.refs("refs/gitstate/inside").items():
        record = json.loads(ws.git("show", f"{tip}:0/repository.json")) | change
        blob = ws.git("hash-object", "-w", "--stdin", stdin=json.dumps(record).encode()).decode().strip()
        lines = [line for line in ws.out("ls-tree", f"{tip}:0").splitlines() if not line.endswith("repository.json")]
        listed = "".join(f"{line}\n" for line in [*lines, f"100644 blob {blob}\trepository.json"])
        held = ws.git("mktree", stdin=listed.encode()).decode().strip()
        tree = ws.git("mktree", stdin=f"040000 tree {held}\t0\n".encode()).decode().strip()
        ws.git("update-ref", ref, ws.out("commit-tree", "-m", "forged", tree))


def reason_for(run: Run, path: str) -> str:
    [reason] = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == path]
    assert isinstance(reason, str)
    return reason


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("core.excludesfile", "~nobody-of-this-name/ignored"),
        ("core.bigfilethreshold", "many"),
        ("push.default", "of a later git"),
    ],
)
def test_setting_that_git_can_not_read_here_does_not_cost_the_repository(name: str, value: str, ws: Workspace) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    good = [["user.name", "A"], ["remote.origin.url", "../x"], ["core.autocrlf", "false"]]
    forge(ws, {"settings": [*good[:2], [name, value], good[2]]})
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert state_of(inner)[1:] == before[1:]
    listed = inner.out("config", "--local", "--list")
    assert all(f"{key}={text}" in listed for key, text in good) and value not in listed


@pytest.mark.sample(3)
@pytest.mark.parametrize("key", ["core.excludesfile", "core.attributesfile"])
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory"])
def test_setting_that_names_no_file_is_not_set(key: str, kind: str, ws: Workspace) -> None:
    """Each git would wait for a FIFO."""
    inner = a_clone(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    places = {"a FIFO": ws.outside / "pipe", "a device": Path("/dev/zero"), "a directory": ws.outside}
    os.mkfifo(places["a FIFO"])
    value = os.path.relpath(places[kind], inner.path)
    forge(ws, {"settings": [["user.name", "A"], [key, value]]})
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert reason_for(run, "vendor/lib") == f"made again without its setting {key} = {value}, which is {kind}"
    listed = inner.out("config", "--local", "--list")
    assert "user.name=A" in listed and key not in listed
    assert before[0].diff(fingerprint(inner.path)) == []


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "change",
    [
        {"head": "refs/heads/a b"},
        {"refs": [["refs/heads/../../../../x", "0" * 40]]},
        {"refs": [["refs/heads/x", "1" * 40]]},
        {"sizes": []},
    ],
)
@pytest.mark.parametrize("build", [a_clone, a_submodule])
def test_repository_that_can_not_be_made_again_leaves_nothing_behind(
    build: Callable[[Workspace], Workspace], change: dict[str, Any], ws: Workspace
) -> None:
    inner = build(ws)
    before, place = state_of(inner), str(inner.path.relative_to(ws.path))
    assert ws.save().exit_status == 0
    good = ws.refs("refs/gitstate/inside")
    forge(ws, change)
    run = wiped_with_modules(ws).recover()
    assert run.exit_status == 4, run
    words, _, command = reason_for(run, place).partition("; once that is mended: ")
    assert "could not be made again" in words
    # The place of a submodule is there without it, as git leaves it.
    assert not (os.listdir(inner.path) if build is a_submodule else inner.path.exists())
    assert not list(ws.git_dir.rglob("inside.unfinished"))
    for ref, tip in good.items():
        ws.git("update-ref", ref, tip)
    run = ws.gitstate(*shlex.split(command)[1:])
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []


def a_directory(place: Path, _: Path) -> None:
    place.mkdir(parents=True)
    (place / "mine").write_text("mine\n")


def a_file(place: Path, _: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine\n")


def a_link(place: Path, away: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(away)


@pytest.mark.sample(2)
@pytest.mark.parametrize("take", [a_directory, a_file, a_link])
def test_command_that_brings_it_back_when_its_place_is_free_again(
    take: Callable[[Path, Path], None], ws: Workspace
) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped(ws)
    away = ws.outside / "away"
    away.mkdir()
    take(inner.path, away)
    run = ws.recover()
    assert run.exit_status == 4, run
    words, _, command = reason_for(run, "vendor/lib").partition(", then ")
    assert words == "something else stands in the place of the nested repository: move it away"
    assert not list(away.iterdir())
    inner.path.rename(ws.outside / "moved")
    run = ws.gitstate(*shlex.split(command)[1:])
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert state_of(inner)[1:] == before[1:]


@pytest.mark.parametrize("name", ["modules", "modules/a name"])
def test_no_git_directory_is_written_through_a_link(name: str, ws: Workspace) -> None:
    """The submodule gets its git directory in its own place."""
    inner = a_submodule(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped_with_modules(ws)
    away = ws.outside / "away"
    away.mkdir()
    (ws.git_dir / name).parent.mkdir(exist_ok=True)
    (ws.git_dir / name).symlink_to(away)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert not list(away.iterdir())
    assert before[0].diff(fingerprint(inner.path)) == []
    assert (inner.path / ".git").is_dir()
