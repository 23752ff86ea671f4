"""The history: checkpoints that were replaced stay as a series that is thinned out with its age."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from gitstate.format.names import save_time_ns
from gitstate.save.plan import is_due, surplus
from tests.support.workspace import Workspace

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


def save_id(seconds_ago: float) -> str:
    """The id of a checkpoint that is so old at NOW."""
    made, rest = divmod(NOW - int(seconds_ago * SECOND), SECOND)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(made)) + f".{rest // 1000:06d}Z-abcdef"


def ages(series: list[str]) -> list[int]:
    return sorted((NOW - (save_time_ns(name) or 0)) // SECOND for name in series)


def test_checkpoint_is_due_after_the_interval() -> None:
    series = [save_id(100), save_id(60)]
    assert [is_due(save_id(ago), series, 30) for ago in (59, 31, 30, 0)] == [False, False, True, True]
    assert is_due(save_id(60), [], 30)


def test_checkpoint_under_a_clock_that_was_set_back_is_due() -> None:
    assert is_due(save_id(0), [save_id(-400 * 86_400)], 30)


def test_checkpoint_is_compared_with_the_one_before_it_whatever_the_clock_said() -> None:
    """The clock was set back by an hour: those from before are not of the same half minute."""
    before = [f"{save_id(ago)}-{number}" for number, ago in enumerate(range(3600, 0, -40), 1)]
    back = f"{save_id(3590)}-{len(before) + 1}"
    assert is_due(back, before, 30)
    assert not is_due(f"{save_id(3580)}-{len(before) + 2}", [*before, back], 30)


@pytest.mark.parametrize("ahead", [365 * 86_400, 3 * 86_400])
def test_clock_that_was_ahead_thins_nothing(ahead: int) -> None:
    """One checkpoint, or all since, under a clock that was ahead: those before it are no older."""
    before = [f"{save_id(ago)}-{number}" for number, ago in enumerate(range(600, 0, -30), 1)]
    wrong = [f"{save_id(-ahead)}-{len(before) + 1}"]
    assert surplus([*before, *wrong], NOW + ahead * SECOND, 0) == []
    after = [f"{save_id(-30)}-{len(before) + 2}"]
    assert surplus([*before, *wrong, *after], NOW + 60 * SECOND, 0) == []


def test_clock_that_was_set_back_mixes_no_spans() -> None:
    """What was made before and after stands in the same minutes."""
    first = [f"{save_id(ago)}-{number}" for number, ago in enumerate(range(5000, 3000, -300), 1)]
    again = [f"{save_id(ago)}-{number}" for number, ago in enumerate(range(4990, 2990, -300), len(first) + 1)]
    assert surplus([*first, *again], NOW - 2990 * SECOND, 30) == []


def test_series_thins_out_with_its_age() -> None:
    """Forty days of checkpoints: twenty of the last ten minutes, then by 5 minutes, by the hour, by the day."""
    series: list[str] = []
    for ago in range(40 * 86_400, -1, -1800):
        series.append(save_id(ago))
        if ago <= 2 * 3600:
            series += [save_id(ago - more) for more in range(30, 1800, 30) if ago - more >= 0]
    gone = set(surplus(series, NOW, 30))
    kept = [name for name in series if name not in gone]
    found = ages(kept)
    assert found[0] == 0 and len([age for age in found if age <= 600]) == 21
    for least, most, span in ((600, 3600, 300), (3600, 86_400, 3600), (86_400, 40 * 86_400, 86_400)):
        level = [age for age in found if least < age <= most]
        assert abs(len(level) - (most - least) / span) <= 2, (span, level)
        assert max(b - a for a, b in pairwise(level)) < 2 * span
    assert surplus(kept, NOW, 30) == []


def test_thinning_keeps_the_newest_of_each_span_whenever_it_runs() -> None:
    """In many small steps or in one: no checkpoint that stays for its level goes earlier."""
    series = [save_id(ago) for ago in range(86_400, 0, -600)]
    at_once = set(series) - set(surplus(series, NOW, 30))
    grown: list[str] = []
    for name in series:
        grown.append(name)
        gone = set(surplus(grown, (save_time_ns(name) or 0) + SECOND, 30))
        grown = [other for other in grown if other not in gone]
    assert at_once - set(grown) == set()


def test_ids_of_the_future_and_foreign_names_stay() -> None:
    series = [save_id(-86_400 * 400), save_id(-86_400 * 500), "no-time", save_id(10)]
    assert surplus(series, NOW, 30) == []


def test_interval_widens_every_level() -> None:
    series = [save_id(ago) for ago in range(0, 7200, 60)]
    assert len(series) - len(surplus(series, NOW, 3600)) <= 3


# -- in a repository


@pytest.fixture
def series(ws: Workspace) -> Iterator[Workspace]:
    """A workspace whose every checkpoint is due."""
    ws.config("gitstate.historyInterval", "0")
    yield ws


def checkpoint(ws: Workspace, text: str) -> str:
    ws.write("a.txt", text)
    made: str = ws.gitstate("checkpoint", "--json").json["save_id"]
    return made


def history(ws: Workspace) -> list[str]:
    return sorted(ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/history/"))


def test_replaced_checkpoint_joins_the_history(series: Workspace) -> None:
    made = [checkpoint(series, f"{number}\n") for number in range(4)]
    assert history(series) == made[:3]
    assert [item["save_id"] for item in series.gitstate("log", "--json").json["saves"]] == made[::-1]
    assert series.gitstate("restore", "latest~3", "a.txt", "--overwrite").exit_status == 0
    assert series.read("a.txt") == b"0\n"


def test_checkpoint_that_a_killed_transaction_left_in_the_history_is_replaced(series: Workspace) -> None:
    first = checkpoint(series, "one\n")
    (ref,) = series.refs("refs/gitstate/checkpoints/")
    workspace = ref.rpartition("/")[2]
    series.git("update-ref", f"refs/gitstate/history/{workspace}/{first}", series.refs(ref)[ref])
    assert len(series.gitstate("log", "--json").json["saves"]) == 1
    second = checkpoint(series, "two\n")
    checkpoint(series, "three\n")
    assert history(series) == [first, second]


def test_checkpoint_within_the_interval_is_replaced(ws: Workspace) -> None:
    made = [checkpoint(ws, f"{number}\n") for number in range(4)]
    assert history(ws) == made[:1]


def test_history_can_be_switched_off(series: Workspace) -> None:
    first = checkpoint(series, "one\n")
    checkpoint(series, "two\n")
    assert history(series) == [first]
    series.config("gitstate.history", "false")
    checkpoint(series, "three\n")
    assert history(series) == [first]
    run = series.gitstate("prune", "--json")
    assert (run.json["history"], history(series)) == ([first], [])


def test_bad_setting_costs_no_checkpoint(series: Workspace) -> None:
    series.config("gitstate.historyInterval", "soon")
    checkpoint(series, "one\n")
    checkpoint(series, "two\n")
    assert len(history(series)) == 1


def test_checkpoint_before_files_vanished_stays_beside_the_history(series: Workspace) -> None:
    series.write("new.txt", "precious\n")
    before = checkpoint(series, "one\n")
    series.remove("new.txt")
    checkpoint(series, "two\n")
    assert [ref.rpartition("/")[2] for ref in series.refs("refs/gitstate/saves/")] == [before]
    assert history(series) == []


def test_thinned_checkpoints_go_in_one_transaction(series: Workspace) -> None:
    """Refs of old ids, as a week ago, and others since; also where git has packed them."""
    made = [checkpoint(series, f"{number}\n") for number in range(13)]
    (directory,) = {ref.rpartition("/")[0] for ref in series.refs("refs/gitstate/history/")}
    week_ago = time.time() - 7 * 86_400
    times = [time.gmtime(week_ago - week_ago % 3600 + number) for number in range(9)]
    times += [time.gmtime(time.time() - days * 86_400) for days in (5.5, 4, 2.5)]
    ids = [time.strftime("%Y%m%dT%H%M%S.000000Z-abcdef", at) for at in times]
    for old, name in zip(ids, made[:12], strict=True):
        series.git("update-ref", f"{directory}/{old}", series.refs(f"{directory}/{name}")[f"{directory}/{name}"])
        series.git("update-ref", "-d", f"{directory}/{name}")
    series.git("pack-refs", "--all")
    last = checkpoint(series, "last\n")
    assert history(series) == [*ids[8:], made[-1]]
    assert series.gitstate("log", "--json").json["saves"][0]["save_id"] == last
    series.git("fsck", "--strict")


def test_history_of_a_pruned_age_goes(series: Workspace) -> None:
    made = [checkpoint(series, f"{number}\n") for number in range(4)]
    assert series.gitstate("prune", "--json").json["history"] == []
    assert series.gitstate("prune", "--dry-run", "--days", "0", "--json").json["history"] == made[:3]
    assert history(series) == made[:3]
    assert series.gitstate("prune", made[1], "--json").json["pruned"] == [made[1]]
    series.gitstate("prune", "--days", "0")
    assert history(series) == []


def test_history_is_not_pushed(series: Workspace) -> None:
    for number in range(3):
        checkpoint(series, f"{number}\n")
    remote = series.outside / "remote.git"
    series.git("init", "-q", "--bare", str(remote))
    assert series.gitstate("push", str(remote)).exit_status == 0
    assert b"/history/" not in series.git("ls-remote", str(remote))
