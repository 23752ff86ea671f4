"""Files that git converts: each place of `.gitattributes`, each conversion, each change, each way of loss.

A case is one file, changed in one way, alone in its workspace: what else is changed decides what a save looks at. The
whole product is marked slow. A quick run takes a sample, and a third of the pairs of a place and a conversion, with all
changes at once.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.look import Look, look, porcelain
from tests.support.losing import forget_unreachable, make_writable
from tests.support.oracle import fingerprint
from tests.support.recovering import RESTORED, check_repository, recovered_from
from tests.support.repositories import initialized
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git

ROT13 = "tr A-Za-z N-ZA-Mn-za-m"


@dataclass(frozen=True)
class Conversion:
    """An attribute, the settings it needs, and three versions of a file as they are in the worktree."""

    attribute: str
    versions: tuple[bytes, bytes, bytes]
    settings: tuple[tuple[str, str], ...] = ()


CRLF = (b"one\r\n", b"one\r\ntwo\r\n", b"one\r\ntwo\r\nthree\r\n")
LF = (b"one\n", b"one\ntwo\n", b"one\ntwo\nthree\n")
IDENT = (b"$Id$\n", b"$Id: abc $ two\n", b"$Id$ three\n")
UTF16 = tuple(text.encode("utf-16") for text in ("one\n", "two \u6f22\n", "three\n"))
OUTPUT = (b"cell\nOUTPUT 1\n", b"cell\nOUTPUT 2\ntwo\n", b"cell\nthree\nOUTPUT 3\n")

CONVERSIONS = {
    "filter": Conversion("filter=rot", LF, (("filter.rot.clean", ROT13), ("filter.rot.smudge", ROT13))),
    "strip": Conversion("filter=strip", OUTPUT, (("filter.strip.clean", "grep -v OUTPUT"),)),
    "crlf": Conversion("text eol=crlf", CRLF),
    "mixed": Conversion("text eol=crlf", (b"one\r\n", b"one\ntwo\r\n", b"one\r\ntwo\nthree\r\n")),
    "lf": Conversion("text eol=lf", CRLF),
    "auto": Conversion("text=auto", CRLF),
    "ident": Conversion("ident", IDENT),
    "encoding": Conversion("working-tree-encoding=UTF-16", (UTF16[0], UTF16[1], UTF16[2])),
    "autocrlf": Conversion("-ident", CRLF, (("core.autocrlf", "true"),)),
    "autocrlf-lf": Conversion("-ident", LF, (("core.autocrlf", "true"),)),
    "binary": Conversion("-text", CRLF, (("core.autocrlf", "true"),)),
}

Step = Callable[[Workspace, str], None]


def untracked(ws: Workspace, line: str) -> None:
    ws.write(".gitattributes", line)


def staged(ws: Workspace, line: str) -> None:
    ws.write(".gitattributes", line)
    ws.add(".gitattributes")


def nested(ws: Workspace, line: str) -> None:
    ws.write("d/.gitattributes", line)


def in_repository(ws: Workspace, line: str) -> None:
    (ws.git_dir / "info").mkdir(exist_ok=True)
    (ws.git_dir / "info" / "attributes").write_text(line)


def nothing(ws: Workspace, line: str) -> None:
    pass


@dataclass(frozen=True)
class Place:
    """Where the attributes are: before the first commit, and after it."""

    before: Step = nothing
    after: Step = nothing


def leave_out(ws: Workspace, line: str) -> None:
    """The sparse checkout has all but the attributes: git reads them in the index."""
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!.gitattributes")
    assert not os.path.exists(ws.at(".gitattributes"))


def plain(ws: Workspace, line: str) -> None:
    untracked(ws, "*.other text\n")


PLACES = {
    "committed": Place(untracked),
    "untracked": Place(nothing, untracked),
    "staged": Place(nothing, staged),
    "edited": Place(plain, untracked),
    "edited-away": Place(untracked, plain),
    "edited-away-staged": Place(untracked, lambda ws, line: staged(ws, "*.other text\n")),
    "removed": Place(untracked, lambda ws, line: ws.remove(".gitattributes")),
    "left-out": Place(untracked, leave_out),
    "nested": Place(nothing, nested),
    "nested-committed": Place(nested),
    "in-repository": Place(in_repository),
}

Change = Callable[[Workspace, str, Conversion], None]


def staged_edited(ws: Workspace, path: str, how: Conversion) -> None:
    ws.write(path, how.versions[1])
    ws.add(path)


def staged_new(ws: Workspace, path: str, how: Conversion) -> None:
    staged_edited(ws, path, how)


def staged_and_edited(ws: Workspace, path: str, how: Conversion) -> None:
    staged_edited(ws, path, how)
    ws.write(path, how.versions[2])


def edited(ws: Workspace, path: str, how: Conversion) -> None:
    ws.write(path, how.versions[1])


def clean(ws: Workspace, path: str, how: Conversion) -> None:
    """Its bytes decide what git says of it: by its stat data alone that would depend on how quick the machine was."""
    os.utime(ws.at(path), (1_000_000_000, 1_000_000_000))


def touched(ws: Workspace, path: str, how: Conversion) -> None:
    """Clean, but the stat data of the index are those of another file."""
    ws.write(path, how.versions[0])


def written_again(ws: Workspace, path: str, how: Conversion) -> None:
    """As git itself writes it, under the attributes of now."""
    ws.remove(path)
    ws.git("checkout", "-q", "--", path)
    clean(ws, path, how)


def assumed_unchanged(ws: Workspace, path: str, how: Conversion) -> None:
    """Git does not look at it, and a checkout may write other bytes."""
    ws.git("update-index", "--assume-unchanged", path)


def deleted(ws: Workspace, path: str, how: Conversion) -> None:
    ws.remove(path)


def staged_deletion(ws: Workspace, path: str, how: Conversion) -> None:
    ws.git("rm", "-q", "-f", path)


def removed_from_index(ws: Workspace, path: str, how: Conversion) -> None:
    ws.git("rm", "-q", "-f", "--cached", path)


CHANGES: dict[str, Change] = {
    "staged-new": staged_new,
    "staged-edited": staged_edited,
    "staged-and-edited": staged_and_edited,
    "edited": edited,
    "clean": clean,
    "touched": touched,
    "written-again": written_again,
    "assumed-unchanged": assumed_unchanged,
    "deleted": deleted,
    "staged-deletion": staged_deletion,
    "removed-from-index": removed_from_index,
}


def wipe_to(ws: Workspace, commit: str) -> None:
    ws.git("reset", "-q", "--hard", commit)
    ws.git("clean", "-ffdxq")


def lose_in_place(ws: Workspace, base: str) -> None:
    pass


def lose_to_base(ws: Workspace, base: str) -> None:
    wipe_to(ws, base)


def lose_to_tip(ws: Workspace, base: str) -> None:
    make_writable(ws.path)
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    wipe_to(ws, "HEAD")


def lose_files(ws: Workspace, base: str) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    forget_unreachable(ws.path)


def clone(ws: Workspace, base: str) -> None:
    other = ws.path.with_name("clone")
    run_git(ws.outside, "clone", "-q", "--no-local", ws.path, other)
    run_git(other, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
    ws.path.rename(ws.outside / "the lost one")
    ws.path = other


LOSSES = {
    "in-place": lose_in_place,
    "base": lose_to_base,
    "tip": lose_to_tip,
    "files": lose_files,
    "cloned": clone,
}

#: Every change at once, each on a file of its own.
ALL = "all"
#: One of so many cases of the product is tried in a quick run.
SAMPLE = 397


def build(ws: Workspace, place: Place, how: Conversion, changes: dict[str, Change]) -> None:
    for name, value in how.settings:
        ws.git("config", "--global", name, value)
    ws.git("config", "--global", "core.safecrlf", "false")
    line = f"*.t {how.attribute}\n"
    place.before(ws, line)
    ws.write("d/other", "other\n")
    for name, change in changes.items():
        if change is not staged_new:
            ws.write(f"d/{name}.t", how.versions[0])
    ws.commit("base")
    place.after(ws, line)
    for name, change in changes.items():
        change(ws, f"d/{name}.t", how)


def check_round(ws: Workspace, loss: str, before: Look) -> None:
    base = ws.out("rev-parse", "HEAD")
    saved = saved_from(ws.save())
    assert not saved.left_out
    LOSSES[loss](ws, base)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] in RESTORED
    assert answer["kept"] == []
    after, expected = fingerprint(ws.path), before.fingerprint
    if loss == "cloned":
        expected, after = replace(expected, settings={}), replace(after, settings={})
    assert expected.diff(after) == []
    check_repository(ws)
    assert porcelain(ws) == before.status


def cases() -> list[Any]:
    found = []
    names = [(*names, change) for names in itertools.product(PLACES, CONVERSIONS, LOSSES) for change in (ALL, *CHANGES)]
    for number, (place, conversion, loss, change) in enumerate(names):
        if place == "in-repository" and loss == "cloned":
            continue  # no clone has that file
        turn = [*PLACES].index(place) + [*CONVERSIONS].index(conversion)
        quick = number % SAMPLE == 0 or (change == ALL and turn % 3 == 0 and [*LOSSES][turn % len(LOSSES)] == loss)
        marks = [] if quick else [pytest.mark.slow]
        ident = "-".join((place, conversion, change, loss))
        found.append(pytest.param(place, conversion, change, loss, id=ident, marks=marks))
    return found


@pytest.mark.sample(3)
@pytest.mark.parametrize(("place", "conversion", "change", "loss"), cases())
def test_converted_file_comes_back(place: str, conversion: str, change: str, loss: str, tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    changes = CHANGES if change == ALL else {change: CHANGES[change]}
    build(ws, PLACES[place], CONVERSIONS[conversion], changes)
    if not ws.status():
        ws.write("so that there is something to save")
    check_round(ws, loss, look(ws))


@pytest.mark.sample(8)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("autocrlf", ["false", "true"])
def test_wip_commit_holds_what_git_add_would(place: str, autocrlf: str, tmp_path: Path) -> None:
    """Not what an encrypting filter keeps out of the repository, and no diff of whole files."""
    ws = initialized(tmp_path)
    for how in CONVERSIONS.values():
        for name, value in how.settings:
            ws.git("config", "--global", name, value)
    ws.git("config", "--global", "core.autocrlf", autocrlf)
    ws.git("config", "--global", "core.safecrlf", "false")
    lines = "".join(f"*.{name} {how.attribute}\n" for name, how in CONVERSIONS.items())
    PLACES[place].before(ws, lines)
    for name, how in CONVERSIONS.items():
        ws.write(f"d/edited.{name}", how.versions[0])
    ws.commit("base")
    PLACES[place].after(ws, lines)
    for name, how in CONVERSIONS.items():
        ws.write(f"d/edited.{name}", how.versions[1])
        ws.write(f"d/new.{name}", how.versions[2])
    index = ws.path.with_name("index")
    shutil.copy(ws.git_dir / "index", index)
    env = {"GIT_INDEX_FILE": str(index)}
    ws.git("add", "d", env=env)
    added = ws.git("ls-files", "-s", "d", env=env).decode().splitlines()
    assert ws.save().exit_status == 0
    saved = ws.out("ls-tree", "-r", "HEAD", "d").splitlines()
    assert {tuple(line.split("\t")[::-1]) for line in saved} == {_path_and_blob(line) for line in added}


def _path_and_blob(line: str) -> tuple[str, str]:
    """Of a line of `ls-files -s`, as `ls-tree` has them."""
    info, path = line.split("\t")
    mode, oid, _ = info.split(" ")
    return path, f"{mode} blob {oid}"
