"""A value in the configuration at which git ends: saved all the same, and exact once mended."""

from __future__ import annotations

import pytest

from tests.states import dirty
from tests.stories.test_damaged_git_dir import mend
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

#: Values at which git fails, in whatever it does.
BAD_VALUES = {
    "filter.c.required": "maybe",
    "core.autocrlf": "perhaps",
    "core.compression": "best",
    "core.bigFileThreshold": "huge",
    "core.abbrev": "short",
    "core.quotePath": "maybe",
    "index.threads": "many",
    "diff.renames": "maybe",
    "status.submoduleSummary": "maybe",
    "core.looseCompression": "99",
    "core.createObject": "copy",
    "core.excludesFile": "~nobody-of-this-name/ignore",
    "core.sharedRepository": "0100",
    "color.status.changed": "colour",
    "diff.algorithm": "fast",
    "diff.ignoreSubmodules": "some",
    "push.default": "everything",
    "status.showUntrackedFiles": "some",
    "remote.other.fetch": "bad:::refspec",
    "core.whitespace": "tab-in-indent,indent-with-non-tab",
}
#: One whose type is known, two of which git names the value alone, one that git names, one of which it names nothing.
ORDINARY = ("core.autocrlf", "core.excludesFile", "push.default", "remote.other.fetch", "core.whitespace")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[] if key in ORDINARY else [pytest.mark.slow]) for key in BAD_VALUES]
)
def test_value_that_git_can_not_read_costs_no_save(key: str, ws: Workspace) -> None:
    dirty(ws)
    ws.write(".gitattributes", "*.sec filter=c\n")
    ws.write("f.sec", "password\n")
    before = fingerprint(ws.path)
    ws.config(key, BAD_VALUES[key])
    run = ws.save()
    # Git reads the settings of filters where it looks into a file: not in each save.
    saved_from(run, exits=(0, 4) if key.startswith("filter.") else (4,))
    if run.exit_status:
        mend(ws)
        assert not ws.git("config", "--get", key, check=False)
    else:
        ws.git("config", "--unset", key)
    wipe(ws)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


@pytest.mark.parametrize("key", ["core.multiPackIndex", "core.commitGraph"])
def test_value_that_hides_a_save_does_not_make_it_corrupt(key: str, ws: Workspace) -> None:
    dirty(ws)
    assert ws.save().exit_status == 0
    ws.config(key, "maybe")
    run = ws.gitstate("verify")
    assert run.exit_status == 1 and "nothing was proven" in run.stderr, run
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "damaged" and "update-ref" not in item["hint"], item
    mend(ws)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert ws.gitstate("verify").exit_status == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "lines",
    [
        "[status] showUntrackedFiles = some",
        "[status]showUntrackedFiles=some ; as git's own tests write it",
        "[status]\n\tshowUntrackedFiles = so\\\nme",
        "[status] showUntrackedFiles = so\\\n[me\\\n]",
        "[diff]\n\talgorithm",
        '[filter "a]b"] required = maybe',
    ],
)
def test_bad_value_is_found_however_its_line_is_written(lines: str, ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    with open(ws.git_dir / "config", "a") as file:
        file.write(f"{lines}\n[gitstate]\n\tkeepDays = 7\n")
    saved_from(ws.save(), exits=(4,))
    mend(ws)
    assert ws.out("config", "gitstate.keepDays") == "7"
    wipe(ws)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("line", ["[status] showUntrackedFiles = some", "[remote", "HEAD"])
def test_settings_of_the_worktree_alone_hold_beside_what_is_damaged(line: str, ws: Workspace) -> None:
    """Git converts by them, and keeps those of a sparse checkout there."""
    ws.git("sparse-checkout", "set", "--cone", "src")
    assert b"sparseCheckout = true" in (ws.git_dir / "config.worktree").read_bytes()
    ws.git("config", "--worktree", "core.autocrlf", "input")
    ws.append("a.txt")
    ws.write("src/new.txt", "one\r\ntwo\r\n")
    ws.remove("src/app.py")
    before = fingerprint(ws.path)
    config, head = ws.git_dir / "config.worktree", ws.git_dir / "HEAD"
    whole, branch = config.read_text(), head.read_bytes()
    if line == "HEAD":
        head.write_bytes(b"")
    else:
        config.write_text(f"{whole}{line}\n")
    saved = saved_from(ws.save(), exits=(4,))
    if line == "[remote":
        config.write_text(whole)
    elif line == "HEAD":
        head.write_bytes(branch)
    mend(ws)
    assert ws.git("cat-file", "blob", f"{saved.wip}:src/new.txt") == b"one\ntwo\n"
    wipe(ws)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_order_file_that_is_missing_costs_no_save(ws: Workspace) -> None:
    """Git ends at each comparison, and names no setting."""
    dirty(ws)
    before = fingerprint(ws.path)
    ws.config("diff.orderFile", ".order")
    saved_from(ws.save())
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []
