"""More than one save, more than one recover."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gitstate.format.names import number_of
from tests.states import Loss, dirty, stop_merging
from tests.support.clock import clock_ahead
from tests.support.look import look
from tests.support.losing import lose, wipe
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.recovering import RESTORED, check_repository, check_state_file, recovered_from
from tests.support.saving import Saved, check_index_bytes, check_untouched, saved_from
from tests.support.workspace import Workspace


def save_quickly(ws: Workspace) -> Saved:
    return saved_from(ws.save())


def entry_of(print_: Fingerprint, path: bytes) -> list[Any]:
    return [entry for entry in print_.index if entry.path == path]


def merged_index(earlier: Fingerprint, later: Fingerprint, *staged_later: bytes) -> tuple[Any, ...]:
    """The earlier save's index with what the later one staged anew."""
    kept = [entry for entry in earlier.index if entry.path not in staged_later]
    return tuple(sorted([*kept, *(entry for path in staged_later for entry in entry_of(later, path))]))


@pytest.mark.sample(2)
@pytest.mark.parametrize("loss", [Loss.IN_PLACE, Loss.WIPED, Loss.REMOVED], ids=lambda loss: loss.value)
def test_recover_unwinds_a_stack_of_two_saves(ws: Workspace, loss: Loss) -> None:
    dirty(ws)
    first = fingerprint(ws.path)
    one = save_quickly(ws)
    ws.append("README.md", "edited after the first save\n")
    ws.append("notes/todo.txt", "untracked, and edited after the first save\n")
    ws.append("b.txt", "edited twice\n")
    ws.append("src/app.py", "staged after the first save\n")
    ws.write("later.txt")
    ws.add("src/app.py", "later.txt")
    ws.remove("new.txt")
    second = fingerprint(ws.path)
    two = save_quickly(ws)
    assert two.document["base_commit"] == first.commit
    where, options = lose(ws, loss, two)
    answer = recovered_from(ws.recover(*options, path=where))
    assert answer["verdict"] == "restore"
    expected = replace(first, files=second.files, index=merged_index(first, second, b"src/app.py", b"later.txt"))
    assert expected.diff(fingerprint(ws.path)) == []
    check_state_file(ws, two)
    check_repository(ws)
    assert one.save_id < two.save_id, "save ids sort by time"
    assert {name.rsplit("/", 1)[1] for name in ws.refs("refs/gitstate/saves")} >= {one.save_id, two.save_id}


def test_recover_unwinds_three_saves_of_the_same_file(ws: Workspace) -> None:
    first = fingerprint(ws.path)
    for text in ("one", "two", "three"):
        ws.write("a.txt", f"staged {text}\n")
        ws.add("a.txt")
        ws.write("a.txt", f"on disk {text}\n")
        ws.write(f"{text}.txt", text)
        last = fingerprint(ws.path)
        save_quickly(ws)
    recovered_from(ws.recover())
    expected = replace(first, files=last.files, index=merged_index(first, last, b"a.txt"))
    assert expected.diff(fingerprint(ws.path)) == []
    assert ws.git("cat-file", "blob", ":a.txt") == b"staged three\n"
    ws.expect_exactly("MM a.txt", "?? one.txt", "?? two.txt", "?? three.txt")


def test_merge_begun_after_a_save_is_recovered(ws: Workspace) -> None:
    """The second save finds an operation on top of the WIP commit of the first."""
    ws.append("c.txt")
    ws.write("untracked.txt")
    save_quickly(ws)
    stop_merging(ws, "side-content", "UU a.txt")
    second = fingerprint(ws.path)
    save_quickly(ws)
    wipe(ws)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] in RESTORED
    after = fingerprint(ws.path)
    assert second.operation == after.operation
    assert second.files == after.files
    assert entry_of(second, b"a.txt") == entry_of(after, b"a.txt")


def test_repeated_save_and_recover_lose_nothing(ws: Workspace) -> None:
    dirty(ws)
    before = look(ws)
    for _ in range(3):
        save_quickly(ws)
        recovered_from(ws.recover())
        assert before.fingerprint.diff(fingerprint(ws.path)) == []
        check_untouched(ws, before)
    check_repository(ws)


def test_second_save_without_changes_is_a_no_op(ws: Workspace) -> None:
    dirty(ws)
    save_quickly(ws)
    refs, objects = ws.refs(), ws.git("count-objects", "-v")
    before = look(ws)
    run = ws.save()
    assert run.exit_status == 0, str(run)
    assert run.json["result"] == "unchanged"
    assert ws.refs() == refs
    assert ws.git("count-objects", "-v") == objects
    check_index_bytes(ws, before)


def test_new_context_alone_is_saved(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    run = ws.save(task_id="T-2")
    assert run.json["result"] == "saved", str(run)
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []
    assert json.loads((ws.path / "active_state.json").read_text())["task_id"] == "T-2"


def test_recover_without_a_save_is_a_no_op(ws: Workspace) -> None:
    dirty(ws)
    before = look(ws)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "nothing"
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs
    check_untouched(ws, before)


def test_second_recover_is_a_no_op(ws: Workspace) -> None:
    dirty(ws)
    save_quickly(ws)
    recovered_from(ws.recover())
    before = look(ws)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "recovered"
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs


def test_dry_run_writes_nothing(ws: Workspace) -> None:
    dirty(ws)
    saved = save_quickly(ws)
    wipe(ws)
    before = look(ws)
    answer = recovered_from(ws.recover("--dry-run"))
    assert answer["verdict"] == "restore"
    assert answer["save_id"] == saved.save_id
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs
    check_index_bytes(ws, before)
    assert not (ws.path / "active_state.json").exists()


def test_branch_reset_to_its_base_by_hand_is_recovered(ws: Workspace) -> None:
    """A person undid the WIP commit and the work with it; the branch is at the base."""
    dirty(ws)
    before = fingerprint(ws.path)
    saved = save_quickly(ws)
    ws.git("reset", "-q", "--hard", saved.document["base_commit"])
    ws.git("clean", "-ffdxq")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_save_is_found_without_its_refs(ws: Workspace) -> None:
    """Only the branch was kept: the trailers of the WIP commit are enough to find the save."""
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    for ref in ws.refs("refs/gitstate"):
        ws.git("update-ref", "-d", ref)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] != "nothing"
    after = fingerprint(ws.path)
    assert after.commit == before.commit
    assert before.files == after.files


#: What hides a path of the index from git, or shows it: before a first save, then between it and a second one.
FLAGS = {
    "assume_unchanged": ((), ("update-index", "--assume-unchanged", "c.txt")),
    "assume_unchanged_no_more": (
        ("update-index", "--assume-unchanged", "c.txt"),
        ("update-index", "--no-assume-unchanged", "c.txt"),
    ),
    "skip_worktree_of_a_staged_file": ((), ("update-index", "--skip-worktree", "src/app.py")),
    "skip_worktree_no_more": (
        ("update-index", "--skip-worktree", "c.txt"),
        ("update-index", "--no-skip-worktree", "c.txt"),
    ),
    "both_of_an_edited_file": (
        ("update-index", "--skip-worktree", "b.txt"),
        ("update-index", "--assume-unchanged", "b.txt"),
    ),
    "intent_to_add_of_a_tracked_file": ((), ("rm", "-q", "--cached", "c.txt")),
}


#: Those which a quick run tries.
QUICK_FLAGS = [("assume_unchanged_no_more", True), ("skip_worktree_of_a_staged_file", False)]


@pytest.mark.parametrize(
    ("how", "works_on"),
    [
        pytest.param(how, works_on, marks=[] if (how, works_on) in QUICK_FLAGS else [pytest.mark.slow])
        for how in FLAGS
        for works_on in (False, True)
    ],
)
def test_what_the_index_hides_is_that_of_the_last_save(how: str, works_on: bool, ws: Workspace) -> None:
    first, then = FLAGS[how]
    ws.append("b.txt", "edited\n")
    ws.append("src/app.py", "staged\n")
    ws.add("src/app.py")
    if first:
        ws.git(*first)
    before = fingerprint(ws.path)
    save_quickly(ws)
    ws.git(*then)
    if then[0] == "rm":
        ws.git("add", "-N", "c.txt")
    changed = then[-1].encode()
    if works_on:
        ws.append("d.txt", "edited later\n")
    files, flagged = fingerprint(ws.path).files, {entry.path: entry for entry in fingerprint(ws.path).index}
    two = save_quickly(ws)
    lose(ws, Loss.REMOVED, two)
    assert recovered_from(ws.recover())["verdict"] == "restore"
    after = fingerprint(ws.path)
    expected = [entry for entry in before.index if entry.path != changed]
    assert [entry for entry in after.index if entry.path != changed] == expected
    assert [(entry.flags, entry.path) for entry in after.index if entry.path == changed] == [
        (flagged[changed].flags, changed)
    ]
    assert after.files == files


def test_flag_between_two_saves_of_a_detached_head_is_saved(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.append("b.txt", "edited\n")
    save_quickly(ws)
    ws.git("update-index", "--skip-worktree", "c.txt")
    before = fingerprint(ws.path)
    lose(ws, Loss.REMOVED, save_quickly(ws))
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []


# -- a clock that was set

YEAR = 365 * 86_400


def saved_at(ws: Workspace, ahead: int, text: str, command: str = "save") -> str:
    """The id of a save, or checkpoint, under a clock that is so far ahead."""
    ws.write("a.txt", text)
    with clock_ahead(ws, ahead):
        made = ws.gitstate(command, "--json")
    assert made.exit_status == 0, made
    save_id: str = made.json["save_id"]
    return save_id


def listed(ws: Workspace) -> list[str]:
    return [item["save_id"] for item in ws.gitstate("log", "--json").json["saves"]]


@pytest.mark.sample(5)
@pytest.mark.parametrize("command", ["save", "checkpoint"])
@pytest.mark.parametrize("ahead", [0, YEAR, 3600, -YEAR])
@pytest.mark.parametrize("back", [7200, YEAR])
def test_newest_save_is_the_one_that_was_made_last_whatever_the_clock_said(
    ws: Workspace, command: str, ahead: int, back: int
) -> None:
    ws.config("gitstate.historyInterval", "0")
    made = []
    for number, clock in enumerate((ahead, ahead - back, 0)):
        made.append(saved_at(ws, clock, f"{number}\n", command))
        if command == "save":
            assert ws.recover().exit_status == 0
    assert listed(ws) == made[::-1]
    ws.write("a.txt", "other\n")
    assert ws.gitstate("restore", "latest", "a.txt", "--overwrite").exit_status == 0
    assert ws.read("a.txt") == b"2\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("left", [b"", b"another-boot 1\n", b"\0" * 40, b"junk", None])
def test_numbers_go_on_after_a_power_cut_took_the_file_of_the_last_one(ws: Workspace, left: bytes | None) -> None:
    """A checkpoint that no other ref holds is counted, too."""
    made = [saved_at(ws, 0, "1\n"), saved_at(ws, 0, "2\n", "checkpoint")]
    path = ws.git_dir / "gitstate/save-number"
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    made.append(saved_at(ws, -7200, "3\n"))
    assert listed(ws) == made[::-1] and [number_of(name) for name in made] == [1, 2, 3]


@pytest.mark.skipif(why_permissions_cannot_be_tested() is not None, reason=str(why_permissions_cannot_be_tested()))
def test_numbers_go_on_where_the_file_of_the_last_one_may_be_read_alone(ws: Workspace) -> None:
    ws.without_override = True
    made = [saved_at(ws, 0, "1\n", "checkpoint")]
    (ws.git_dir / "gitstate/save-number").chmod(0o400)
    made += [saved_at(ws, -7200 * number, f"{number}\n") for number in (2, 3)]
    assert listed(ws) == made[::-1] and [number_of(name) for name in made] == [1, 2, 3]


@pytest.mark.parametrize("place", ["file", "refs"])
def test_newer_saves_sort_above_one_with_the_highest_number(ws: Workspace, place: str) -> None:
    """Only somebody else can have made it; those after it sort by time."""
    made = [saved_at(ws, 0, "1\n", "checkpoint")]
    highest = f"{made[0].rpartition('-')[0]}-{'9' * 12}"
    if place == "file":
        path = ws.git_dir / "gitstate/save-number"
        path.write_text(f"{path.read_text().split()[0]} {'9' * 12}\n")
    else:
        (archive,) = ws.refs("refs/gitstate/checkpoints/").values()
        (workspace,) = (ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/checkpoints/"))
        ws.git("update-ref", f"refs/gitstate/saves/{workspace}/{highest}", archive)
        (ws.git_dir / "gitstate/save-number").unlink()
    for number in (2, 3):
        made.append(saved_at(ws, 0, f"{number}\n"))
        assert ws.recover().exit_status == 0
    assert [name for name in listed(ws) if name in made] == [made[2], made[1], made[0]]
    ws.write("a.txt", "other\n")
    assert ws.gitstate("restore", "latest", "a.txt", "--overwrite").exit_status == 0
    assert ws.read("a.txt") == b"3\n"


def test_older_checkpoint_is_not_offered_where_the_clock_was_set_back(ws: Workspace) -> None:
    """Its work is older than that of a save that was recovered, whatever the time that it tells."""
    saved_at(ws, 0, "older\n", "checkpoint")
    saved_at(ws, -7200, "newer\n")
    assert ws.recover().exit_status == 0 and ws.gitstate("finish").exit_status == 0
    ws.git("checkout", "-q", "--", "a.txt")
    again = ws.recover().json["workspaces"][0]
    assert (again["verdict"], again["hint"]) == ("nothing", None)
