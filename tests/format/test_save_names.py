"""A save is named as people name things: by its place, its age, its label, the beginning of its id."""

from __future__ import annotations

import pytest

from gitstate.format.find import is_reserved, parse_age
from tests.support.workspace import Workspace


def checkpoints(ws: Workspace, *labels: str) -> list[str]:
    """The ids of labelled checkpoints, each of other content."""
    ids = []
    for label in labels:
        ws.write("a.txt", f"{label}\n")
        ids.append(ws.gitstate("checkpoint", "--label", label, "--json").json["save_id"])
    return ids


def named(ws: Workspace, name: str) -> str:
    run = ws.gitstate("diff", name, "--json")
    assert run.exit_status == 0, run
    save_id: str = run.json["save_id"]
    return save_id


def aged(ws: Workspace, save_id: str, by: str) -> str:
    """The save gets an id that begins otherwise: as old as that tells."""
    (old,) = ws.refs(f"refs/gitstate/saves/*/{save_id}")
    new = by + save_id[len(by) :]
    ws.git("update-ref", old.replace(save_id, new), ws.refs(old)[old])
    ws.git("update-ref", "-d", old)
    return new


def test_places_count_from_the_newest(ws: Workspace) -> None:
    first, second, third = checkpoints(ws, "one", "two", "three")
    saved = ws.save().json["save_id"]
    assert [named(ws, name) for name in ("latest", "latest~1", "latest~", "latest~3")] == [saved, third, third, first]
    assert [named(ws, name) for name in ("checkpoint", "checkpoint~1")] == [third, second]


def test_latest_passes_over_the_saves_that_a_restore_takes(ws: Workspace) -> None:
    ws.write("b.txt", "held\n")
    first, second = checkpoints(ws, "one", "two")
    for path in ("a.txt", "b.txt"):
        ws.write(path, "edited since\n")
    for path, content in (("a.txt", b"two\n"), ("b.txt", b"held\n")):
        run = ws.gitstate("restore", "--overwrite", "latest", path)
        assert run.exit_status == 0 and "the files as they were before: save" in run.stderr, run
        assert ws.read(path) == content
    assert [named(ws, name) for name in ("latest", "latest~1")] == [second, first]
    assert b"safety" in ws.gitstate("log").stdout


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["latest~9", "latest~x", "latest~-1", "checkpoint~9", "99w", "nobody", "~1", ""])
def test_name_of_no_save_exits_4_and_says_what_to_type(ws: Workspace, name: str) -> None:
    checkpoints(ws, "one")
    run = ws.gitstate("diff", name)
    assert run.exit_status == 4 and " log" in run.stderr.partition("  next: gitstate ")[2], run


def test_name_where_there_is_no_save_at_all(ws: Workspace) -> None:
    run = ws.gitstate("diff", "latest")
    assert (run.exit_status, run.stderr.splitlines()[-1]) == (4, f"  next: gitstate -C {ws.path} save")


def test_label_names_the_newest_save_that_has_it(ws: Workspace) -> None:
    _, second, third = checkpoints(ws, "same", "same", "other")
    assert (named(ws, "same"), named(ws, "other")) == (second, third)
    ws.append("b.txt")
    saved = ws.save("--label", "wip").json["save_id"]
    assert named(ws, "wip") == saved


def test_labelled_checkpoint_stays_when_the_next_one_comes(ws: Workspace) -> None:
    (first,) = checkpoints(ws, "before")
    ws.write("a.txt", "much later\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert named(ws, "before") == first


def test_label_is_kept_where_nothing_else_changed(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.gitstate("checkpoint", "--json").json["result"] == "saved"
    labelled = ws.gitstate("checkpoint", "--label", "here", "--json").json
    assert labelled["result"] == "saved"
    assert ws.gitstate("checkpoint", "--json").json["result"] == "unchanged"
    assert named(ws, "here") == labelled["save_id"]


def test_label_saves_a_clean_workspace(ws: Workspace) -> None:
    made = ws.save("--label", "clean")
    assert (made.exit_status, made.json["result"]) == (0, "saved")


@pytest.mark.parametrize("label", ["latest", "latest~2", "checkpoint", "10m", "", " ", "x" * 201])
def test_label_that_names_another_save_is_refused(ws: Workspace, label: str) -> None:
    ws.append("a.txt")
    run = ws.gitstate("checkpoint", "--label", label)
    assert run.exit_status == 2 and "can't be a label" in run.stderr
    assert not ws.refs("refs/gitstate/")


def test_beginning_has_to_be_unique(ws: Workspace) -> None:
    first, second, third = checkpoints(ws, "one", "two", "three")
    first = aged(ws, first, "2020")
    ws.git("for-each-ref")
    run = ws.gitstate("diff", "20")
    assert run.exit_status == 4 and "3 saves begin with" in run.stderr and second in run.stderr
    unique = third[: next(n for n in range(30) if third[:n] != second[:n])]
    assert named(ws, unique) == third


def test_age_names_the_newest_that_is_so_old(ws: Workspace) -> None:
    old = ws.gitstate("checkpoint", "--label", "x", "--json").json["save_id"]
    ws.append("a.txt")
    ws.gitstate("checkpoint")
    old = aged(ws, old, "2020")
    run = ws.gitstate("prune", "1w", "--json", "--dry-run")
    assert run.json["pruned"] == [old], run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), ("1w", 604_800), ("0s", 0)],
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds
    assert is_reserved(text)


@pytest.mark.parametrize(
    "text", ["", "m", "10", "10x", "-1m", "1e3s", ".5h", "1.2.3s", "\u0661m", "9999999999999999s", "nan s"]
)
def test_what_is_no_age(text: str) -> None:
    assert parse_age(text) is None


def test_restore_recover_and_prune_take_names(ws: Workspace) -> None:
    first, _ = checkpoints(ws, "one", "two")
    assert ws.gitstate("restore", "one", "a.txt", "--overwrite").exit_status == 0
    assert ws.read("a.txt") == b"one\n"
    ws.git("reset", "-q", "--hard")
    assert ws.recover("--save", "checkpoint").exit_status == 0
    assert ws.read("a.txt") == b"two\n"
    assert ws.gitstate("prune", "one", "--json").json["pruned"] == [first]
