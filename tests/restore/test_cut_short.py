"""Which files a power cut can have left short: no repository, no file, no power cut."""

from __future__ import annotations

import pytest

from gitstate.format.context import Context
from gitstate.format.names import save_time_ns
from gitstate.restore.paths import is_older_and_no_longer, is_what_is_left, may_be_cut_short
from tests.support.made_up import SAVE_ID, WORKSPACE, made_up_save

OF_BOOT_1 = made_up_save(context=Context(boot_id="boot-1"))
BEGAN = save_time_ns(SAVE_ID) or 0
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def hermetic() -> None:
    """These rules read no environment: no home is made for each row."""


def test_only_where_the_machine_went_down_since() -> None:
    assert may_be_cut_short(OF_BOOT_1, WORKSPACE, "boot-2")
    assert not may_be_cut_short(OF_BOOT_1, WORKSPACE, "boot-1")
    assert may_be_cut_short(OF_BOOT_1, WORKSPACE, None), "this system tells no boot id"
    assert may_be_cut_short(made_up_save(context=Context()), WORKSPACE, "boot-2"), "the save names no boot"


def test_only_where_the_save_read_the_files_of_this_directory() -> None:
    assert not may_be_cut_short(OF_BOOT_1, "another", "boot-2")
    from_wip_commit = OF_BOOT_1._replace(archive=OF_BOOT_1.wip)
    assert not may_be_cut_short(from_wip_commit, WORKSPACE, "boot-2")


@pytest.mark.parametrize(
    ("length", "changed_ns", "size", "older"),
    [
        (10, BEGAN - SECOND, 20, True),
        (20, BEGAN - SECOND, 20, True),
        (0, BEGAN - SECOND, 20, True),
        (21, BEGAN - SECOND, 20, False),
        (10, BEGAN, 20, False),
        (10, BEGAN + SECOND, 20, False),
        (10, BEGAN - 5_000_000, 20, False),
    ],
    ids=["shorter", "as long", "empty", "longer", "at the save", "after it", "within a tick of the clock"],
)
def test_only_what_has_not_changed_since_the_save(length: int, changed_ns: int, size: int, older: bool) -> None:
    for boot_ns in (None, BEGAN + 2 * SECOND):
        assert is_older_and_no_longer(OF_BOOT_1, (length, changed_ns), size, boot_ns) is older


@pytest.mark.parametrize("ahead", [2 * SECOND, 3600 * SECOND])
def test_only_what_has_not_changed_since_the_boot(ahead: int) -> None:
    """A clock that was ahead at the save: the boot began before the time that the save tells."""
    boot_ns = BEGAN - ahead
    assert is_older_and_no_longer(OF_BOOT_1, (10, boot_ns - 1), 20, boot_ns)
    assert not is_older_and_no_longer(OF_BOOT_1, (10, boot_ns), 20, boot_ns)
    assert not is_older_and_no_longer(OF_BOOT_1, (10, BEGAN - SECOND), 20, boot_ns)


@pytest.mark.parametrize(
    ("disk", "is_left"),
    [
        (b"", True),
        (b"one", True),
        (b"one\ntwo\nthre", True),
        (b"one\n" + bytes(10), True),
        (bytes(14), True),
        (b"one\ntwo\nthree\n", False),
        (b"one\nTWO\n", False),
        (b"two", False),
        (b"one\n" + bytes(4) + b"three\n", False),
        (bytes(4) + b"two\n", False),
    ],
)
@pytest.mark.parametrize("portion", [1, 3, 4, 100])
@pytest.mark.parametrize("read", [1, 5, 100])
def test_what_is_left_of_a_file(disk: bytes, is_left: bool, portion: int, read: int) -> None:
    """A beginning, with zeros or nothing after it, whatever the portions in which both are read."""
    saved = b"one\ntwo\nthree\n"
    portions = iter([saved[start : start + portion] for start in range(0, len(saved), portion)])
    pieces = iter([disk[start : start + read] for start in range(0, len(disk), read)])
    assert is_what_is_left(portions, pieces, same_size=len(disk) == len(saved)) is is_left
    assert next(portions, None) is None, "the saved version has to be read to its end"
