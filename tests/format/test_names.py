"""Names of ours are taken apart as they were made; names of others are refused."""

from __future__ import annotations

import time

import pytest

from gitstate.format.names import (
    BASE_TRAILER,
    SAVE_TRAILER,
    SaveName,
    Trailers,
    age_key,
    checkpoint_ref,
    format_message,
    is_save_id,
    marker_ref,
    new_save_id,
    newest_first,
    number_of,
    parse_ref,
    parse_trailers,
    remote_name,
    save_ref,
    save_time_ns,
    without_password,
)
from gitstate.objects.reader import format_commit
from tests.support.environment import ROOT

ID = "20261126T230000.123456Z-abcdef"
OID = "1" * 40

REFS = [
    (save_ref("ws-1", ID), SaveName("save", "ws-1", ID)),
    (marker_ref("ws-1"), SaveName("pending", "ws-1", None)),
    (checkpoint_ref("ws-1"), SaveName("checkpoint", "ws-1", None)),
    # As a file system lists it that knows lower case alone.
    (save_ref("ws-1", ID.lower()), SaveName("save", "ws-1", ID)),
]
NOT_OURS = [
    "",
    "HEAD",
    "refs/heads/main",
    "refs/notes/gitstate",
    "refs/gitstate/",
    "refs/gitstate/saves/",
    "refs/gitstate/saves/ws-1",
    "refs/gitstate/saves/ws-1/",
    f"refs/gitstate/saves//{ID}",
    f"refs/gitstate/saves/ws-1/{ID}/more",
    f"refs/gitstate/saves/../{ID}",
    "refs/gitstate/saves/ws-1/a b",
    "refs/gitstate/pending/",
    "refs/gitstate/pending/ws-1/more",
    "refs/gitstate/checkpoints/-x",
    "refs/gitstate/fetched/origin/ws-1",
]


@pytest.mark.parametrize(("ref", "name"), REFS)
def test_ref_is_parsed(ref: str, name: SaveName) -> None:
    assert parse_ref(ref) == name


@pytest.mark.parametrize("ref", NOT_OURS)
def test_other_ref_is_refused(ref: str) -> None:
    assert parse_ref(ref) is None


def test_time_of_a_new_save_id_is_now() -> None:
    before = time.time_ns()
    told = save_time_ns(new_save_id())
    assert told is not None and before - 1000 < told <= time.time_ns()


@pytest.mark.parametrize(
    ("save_id", "told"),
    [
        ("19700101T000001.000002Z-abcdef", 1_000_002_000),
        (ID, 1_795_734_000_123_456_000),
        ("20261126T230000", None),
        ("20261399T230000.123456Z-abcdef", None),
        ("mine", None),
        ("", None),
    ],
)
def test_time_of_a_save_id(save_id: str, told: int | None) -> None:
    assert save_time_ns(save_id) == told


def test_new_save_ids_sort_by_time_and_may_be_part_of_a_ref() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_save_id())
        time.sleep(0.001)
    assert ids == sorted(ids) and all(map(is_save_id, ids))


MESSAGES = [
    (format_message("WIP(gitstate): T-1", ID, OID), Trailers(ID, OID)),
    (f"subject\n\n{SAVE_TRAILER}: {ID}\n", Trailers(ID, None)),
    (f"subject\n\n{SAVE_TRAILER}: {ID}\n\nmore\n", Trailers(None, None)),
    (f"subject\n\n{SAVE_TRAILER}: ../x\n{BASE_TRAILER}: HEAD\n", Trailers(None, None)),
    (f"subject\n\n{SAVE_TRAILER}:{ID}\n", Trailers(None, None)),
    (f"{SAVE_TRAILER}: {ID}\n", Trailers(ID, None)),
    ("", Trailers(None, None)),
    ("\udcff\n\n\udcff: x\n", Trailers(None, None)),
]


@pytest.mark.parametrize(("message", "trailers"), MESSAGES)
def test_trailers_are_those_of_the_last_paragraph(message: str, trailers: Trailers) -> None:
    commit = format_commit(OID, [OID], "a <b> 0 +0000", message)
    assert parse_trailers(message.encode("utf-8", "surrogateescape")) == trailers
    if "\n\n" in message:
        assert parse_trailers(commit) == trailers


def test_shell_hook_looks_for_the_same_trailer_and_marker() -> None:
    """The hook must decide without Python whether there is something to do."""
    text = (ROOT / "hooks/git/gitstate-hook").read_text("utf-8")
    assert text.count(f"--grep='^{SAVE_TRAILER}: '") == 2
    assert f'"$common_dir"/{marker_ref("*")}' in text and f"' {marker_ref('')}'" in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:token@host/x@y.git", "https://host/x@y.git"),
        ("https://token@host:8443/x", "https://host:8443/x"),
        ("ssh://git:pass@host/x", "ssh://git@host/x"),
        ("git@host:x.git", "git@host:x.git"),
        ("https://host/x", "https://host/x"),
        ("origin", "origin"),
    ],
)
def test_password_is_not_part_of_a_remote_that_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_password_is_not_part_of_a_ref() -> None:
    assert "token" not in remote_name("https://user:token@host/x.git")


# -- the order of saves

UNNUMBERED = [
    "29991126T230000.000000Z-abcdef",
    "20200101T000000.000000Z-abcdef",
    "20260101T000000.000000Z-abcdef",
]
NUMBERED = [
    "20990101T000000.000000Z-bbbbbb-9",
    "20260101T000000.000000Z-aaaaaa-10",
    "19700101T000000.000000Z-cccccc-11",
]


def test_saves_of_a_workspace_sort_by_their_number_whatever_the_clock_said() -> None:
    """Those that version 0.1 made have none: they are older, and sort by time, one of the future first."""
    assert sorted([*NUMBERED[::-1], *UNNUMBERED[::-1]], key=age_key) == [*UNNUMBERED, *NUMBERED]


def test_saves_of_several_workspaces_are_listed_by_time_each_in_its_order() -> None:
    other = ["20260201T000000.000000Z-dddddd-1", "20250101T000000.000000Z-dddddd-2"]
    items = [*(("one", name) for name in NUMBERED[1:]), *(("two", name) for name in other)]
    listed = newest_first(items, lambda item: item)
    assert [name for who, name in listed if who == "one"] == NUMBERED[:0:-1]
    assert [name for who, name in listed if who == "two"] == other[::-1]
    assert listed[0] == ("two", other[1])


@pytest.mark.parametrize(
    ("save_id", "number"),
    [
        ("20260101T000000.000000Z-123456-7", 7),
        ("20260101T000000.000000Z-123456", 0),
        ("20260101T000000.000000Z-123456-", 0),
        ("20260101T000000.000000Z-123456-0x1", 0),
        ("20260101T000000.000000Z-123456-" + "9" * 13, 0),
        ("other-123456-7", 0),
        ("", 0),
    ],
)
def test_number_is_read_from_the_id(save_id: str, number: int) -> None:
    assert number_of(save_id) == number


def test_new_id_tells_time_and_number() -> None:
    assert number_of(new_save_id(7)) == 7 and number_of(new_save_id()) == 0
    assert save_time_ns(new_save_id(7, 1_000_002_000)) == 1_000_002_000
