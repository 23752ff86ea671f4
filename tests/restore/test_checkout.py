"""Files that git converts, of which only what git stores is known: they come back as git would check them out."""

from __future__ import annotations

import pytest

from tests.stories.test_conversions import CONVERSIONS, Conversion
from tests.support.recovering import recovered_from
from tests.support.workspace import Workspace

#: In `mixed` and `autocrlf-lf` git itself writes other line ends than were committed.
EXACT = [name for name in CONVERSIONS if name not in ("mixed", "autocrlf-lf", "ident", "lf", "auto", "strip")]


@pytest.fixture(params=EXACT)
def conversion(request: pytest.FixtureRequest, ws: Workspace) -> Conversion:
    """A committed file that git converts, and a checkpoint that did not change it."""
    found = CONVERSIONS[request.param]
    for name, value in found.settings:
        ws.config(name, value)
    ws.write(".gitattributes", f"/x.txt {found.attribute}\n")
    ws.write("x.txt", found.versions[0])
    ws.commit("converted")
    ws.write("a.txt", "work\n")
    assert ws.gitstate("checkpoint", "--label", "held").exit_status == 0
    return found


@pytest.mark.sample(3)
def test_unchanged_file_that_is_gone(ws: Workspace, conversion: Conversion) -> None:
    ws.remove("x.txt")
    run = ws.gitstate("restore", "held", "x.txt")
    assert run.exit_status == 0 and "restored: x.txt" in run.stderr, run
    assert ws.read("x.txt") == conversion.versions[0]
    assert ws.status() == {b" M a.txt"}


@pytest.mark.sample(3)
def test_unchanged_file_whose_attributes_are_gone_too(ws: Workspace, conversion: Conversion) -> None:
    """Git then reads the attributes of the index."""
    ws.remove("x.txt")
    ws.remove(".gitattributes")
    assert ws.gitstate("restore", "held", "x.txt").exit_status == 0
    assert ws.read("x.txt") == conversion.versions[0]


@pytest.mark.sample(3)
def test_unchanged_file_that_was_edited(ws: Workspace, conversion: Conversion) -> None:
    ws.write("x.txt", conversion.versions[1])
    kept = ws.gitstate("restore", "held", "x.txt")
    assert "kept: x.txt" in kept.stderr and ws.read("x.txt") == conversion.versions[1]
    assert ws.gitstate("restore", "held", "--overwrite", "x.txt").exit_status == 0
    assert ws.read("x.txt") == conversion.versions[0]
    again = ws.gitstate("restore", "held", "--overwrite", "x.txt")
    assert "x.txt" not in again.stderr, "it is as it was"
    for version in (1, 0):
        assert ws.gitstate("undo").exit_status == 0
        assert ws.read("x.txt") == conversion.versions[version]


@pytest.mark.sample(5)
@pytest.mark.parametrize("options", [[], ["--overwrite"]], ids=["", "--overwrite"])
def test_unchanged_file_that_holds_what_git_stores(options: list[str], ws: Workspace, conversion: Conversion) -> None:
    """As after a checkout without the filter: it is not the file of the save, and git has these bytes anyway."""
    stored = ws.git("cat-file", "blob", "HEAD:x.txt")
    ws.write("x.txt", stored)
    run = ws.gitstate("restore", "held", *options, "x.txt")
    assert run.exit_status == 0 and ("restored: x.txt" in run.stderr) == (stored != conversion.versions[0]), run
    assert ws.read("x.txt") == conversion.versions[0]
    again = ws.gitstate("restore", "held", *options, "x.txt")
    assert again.exit_status == 0 and "x.txt" not in again.stderr, "it is as it was"


@pytest.mark.sample(3)
def test_undo_of_a_recovery_goes_back_to_the_commit(ws: Workspace, conversion: Conversion) -> None:
    ws.write("x.txt", conversion.versions[1])
    ws.save()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    recovered_from(ws.recover())
    assert ws.read("x.txt") == conversion.versions[1]
    for version in (0, 1, 0):
        assert ws.gitstate("undo").exit_status == 0
        assert ws.read("x.txt") == conversion.versions[version]


@pytest.mark.sample(3)
def test_wip_commit_alone_is_left(ws: Workspace, conversion: Conversion) -> None:
    """Every ref of gitstate is lost, and the files are those of the commit below."""
    ws.write("x.txt", conversion.versions[1])
    ws.save()
    wip = ws.out("rev-parse", "HEAD")
    for name in ws.refs("refs/gitstate"):
        ws.git("update-ref", "-d", name)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("reset", "-q", "--soft", wip)
    recovered_from(ws.recover())
    assert ws.read("x.txt") == conversion.versions[1]
    assert ws.status() == {b" M a.txt", b" M x.txt"}


def hold_filtered(ws: Workspace, clean: str, smudge: str) -> None:
    """Make a save `held` that has not changed x.txt, which a filter converts; then let the filter fail."""
    ws.config("filter.rot.clean", clean)
    ws.config("filter.rot.smudge", smudge)
    ws.write(".gitattributes", "/x.txt filter=rot\n")
    ws.write("x.txt", "shown\n")
    ws.commit("filtered")
    ws.write("a.txt", "work\n")
    ws.gitstate("checkpoint", "--label", "held")
    ws.config("filter.rot.smudge", "false")


def test_failing_filter_is_reported(ws: Workspace) -> None:
    hold_filtered(ws, "cat", "cat")
    ws.remove("x.txt")
    run = ws.gitstate("restore", "held", "x.txt")
    assert "x.txt" in run.stderr and "filter failed" in run.stderr, run
    assert ws.read("x.txt") == b"shown\n"


def test_failing_filter_is_reported_where_the_file_holds_what_git_stores(ws: Workspace) -> None:
    hold_filtered(ws, "tr a-z n-za-m", "tr n-za-m a-z")
    ws.write("x.txt", "fubja\n")
    run = ws.gitstate("restore", "held", "x.txt")
    assert "filter failed" in run.stderr and ws.read("x.txt") == b"fubja\n", run
    ws.config("filter.rot.smudge", "tr n-za-m a-z")
    assert ws.gitstate("restore", "held", "x.txt").exit_status == 0
    assert ws.read("x.txt") == b"shown\n"
