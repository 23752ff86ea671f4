"""The rules for one path, row by row: no repository, no git, no file."""

from __future__ import annotations

from itertools import product

import pytest

from gitstate.objects.tree import EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf
from gitstate.restore.choices import Choice, Target, needs_safety_save, stands_as, step, wanted_permissions
from gitstate.workspace.files import MISSING, FileState
from tests.support.made_up import oid


@pytest.fixture(autouse=True)
def hermetic() -> None:
    """These rules read no environment: no home is made for each row."""


SAVED, BASE, STRANGE = oid("saved"), oid("base"), oid("strange")
PATH = b"a.txt"


def target(mode: int | None, *, base_mode: int = REGULAR) -> Target:
    saved = None if mode is None else Leaf(mode, SAVED)
    return Target(PATH, saved, None, frozenset({Leaf(base_mode, BASE)}))


FILE, LINK, MODULE, NOTHING = target(REGULAR), target(SYMLINK), target(GITLINK), target(None)
LINK_BASE, GONE_LINK = target(REGULAR, base_mode=SYMLINK), target(None, base_mode=SYMLINK)


def on_disk(kind: str, content: str | None = None) -> FileState:
    return FileState(kind, content, 0o644)


DIRECTORY, SPECIAL = on_disk("directory"), on_disk("special")

#: What was saved, what is on disk, what happens, what happens with `overwrite`.
STEPS = [
    # a file
    (FILE, MISSING, "write", "write"),
    (FILE, on_disk("file", SAVED), "same", "same"),
    (FILE, on_disk("file", BASE), "write", "write"),
    (FILE, on_disk("file", STRANGE), "look", "write"),
    (FILE, on_disk("link", SAVED), "keep", "write"),
    (FILE, on_disk("link", BASE), "keep", "write"),
    (FILE, on_disk("link", STRANGE), "keep", "write"),
    (FILE, DIRECTORY, "write", "write"),
    (FILE, SPECIAL, "keep", "keep"),
    (LINK_BASE, on_disk("link", BASE), "write", "write"),
    (LINK_BASE, on_disk("file", BASE), "look", "write"),
    (target(EXECUTABLE), on_disk("file", SAVED), "same", "same"),
    (target(EXECUTABLE), MISSING, "write", "write"),
    # a symlink
    (LINK, MISSING, "write", "write"),
    (LINK, on_disk("link", SAVED), "same", "same"),
    (LINK, on_disk("link", STRANGE), "keep", "write"),
    (LINK, on_disk("file", SAVED), "look", "write"),
    (LINK, on_disk("file", BASE), "write", "write"),
    (LINK, on_disk("file", STRANGE), "look", "write"),
    (LINK, DIRECTORY, "write", "write"),
    (LINK, SPECIAL, "keep", "keep"),
    # a submodule
    (MODULE, MISSING, "write", "write"),
    (MODULE, DIRECTORY, "same", "same"),
    (MODULE, on_disk("file", BASE), "write", "write"),
    (MODULE, on_disk("file", STRANGE), "keep", "keep"),
    (MODULE, on_disk("link", STRANGE), "keep", "keep"),
    (MODULE, SPECIAL, "keep", "keep"),
    # nothing: it was deleted
    (NOTHING, MISSING, "same", "same"),
    (NOTHING, DIRECTORY, "same", "same"),
    (NOTHING, on_disk("file", BASE), "delete", "delete"),
    (NOTHING, on_disk("file", STRANGE), "look", "delete"),
    (NOTHING, on_disk("link", BASE), "keep", "delete"),
    (NOTHING, on_disk("link", STRANGE), "keep", "delete"),
    (NOTHING, SPECIAL, "keep", "keep"),
    (GONE_LINK, on_disk("link", BASE), "delete", "delete"),
    (GONE_LINK, on_disk("file", BASE), "keep", "delete"),
]


@pytest.mark.parametrize(("was", "seen", "action", "overwriting"), STEPS)
def test_step(was: Target, seen: FileState, action: str, overwriting: str) -> None:
    assert step(was, seen) == action
    assert step(was, seen, overwrite=True) == overwriting


EVERY_TARGET = [
    Target(PATH, saved, None, frozenset(bases))
    for saved in (None, Leaf(REGULAR, SAVED), Leaf(EXECUTABLE, SAVED), Leaf(SYMLINK, SAVED), Leaf(GITLINK, SAVED))
    for bases in ((), (Leaf(REGULAR, BASE),), (Leaf(SYMLINK, BASE),), (Leaf(GITLINK, BASE),), (Leaf(REGULAR, SAVED),))
]
EVERY_DISK = [
    MISSING,
    DIRECTORY,
    SPECIAL,
    *(on_disk(kind, content) for kind in ("file", "link") for content in (SAVED, BASE, STRANGE)),
]


@pytest.mark.parametrize("seen", EVERY_DISK, ids=lambda seen: f"{seen.kind}")
def test_nothing_that_is_in_no_save_and_no_commit_is_replaced(seen: FileState) -> None:
    """Over all combinations: without `overwrite` only what the save or a base holds is written over or deleted."""
    for was, left_out in product(EVERY_TARGET, (False, True)):
        action = step(was, seen, left_out=left_out)
        if action in ("write", "delete") and seen.kind in ("file", "link"):
            known = {leaf.oid for leaf in (*was.bases, *((was.saved,) if was.saved else ()))}
            assert seen.oid in known, was
        if seen.kind == "special":
            assert step(was, seen, overwrite=True, left_out=left_out) in ("keep", "same"), was
        assert action != "delete" or was.saved is None
        assert action != "look" or seen.kind == "file"


@pytest.mark.parametrize("was", [FILE, LINK, MODULE, NOTHING])
def test_a_path_that_the_save_could_not_read_is_not_reported(was: Target) -> None:
    assert step(was, SPECIAL, left_out=True) == "same"
    assert step(was, MISSING, left_out=True) == step(was, MISSING)


def test_a_safety_save_is_taken_before_a_file_is_replaced() -> None:
    choices = [Choice(FILE, MISSING, "same"), Choice(FILE, on_disk("file", STRANGE), "keep")]
    assert not needs_safety_save(choices)
    assert needs_safety_save([*choices, Choice(FILE, on_disk("file", BASE), "write")])
    assert needs_safety_save([*choices, Choice(NOTHING, on_disk("file", BASE), "delete")])


#: Saved mode, saved permissions, permissions on disk, umask, those wanted, whether git may have set those on disk.
PERMISSIONS = [
    (REGULAR, None, 0o644, 0o022, None, False),
    (REGULAR, None, 0o600, 0o022, 0o644, False),
    (REGULAR, None, 0o600, 0o077, 0o644, True),
    (REGULAR, None, 0o664, 0o002, 0o644, True),
    (REGULAR, None, 0o666, 0o000, 0o644, True),
    (REGULAR, None, 0o755, 0o022, 0o644, False),
    (REGULAR, 0o600, 0o600, 0o022, None, False),
    (REGULAR, 0o600, 0o644, 0o022, 0o600, True),
    (REGULAR, 0o600, 0o640, 0o022, 0o600, False),
    (REGULAR, 0o444, 0o644, 0o022, 0o444, True),
    (REGULAR, 0o000, 0o644, 0o022, 0o000, True),
    (EXECUTABLE, None, 0o755, 0o022, None, False),
    (EXECUTABLE, None, 0o700, 0o077, 0o755, True),
    (EXECUTABLE, None, 0o775, 0o002, 0o755, True),
    (EXECUTABLE, 0o700, 0o755, 0o022, 0o700, True),
    (EXECUTABLE, 0o700, 0o711, 0o022, 0o700, False),
    (EXECUTABLE, None, 0o644, 0o022, 0o755, True),  # its base is not executable
]


@pytest.mark.parametrize(("mode", "saved", "now", "umask", "wanted", "from_git"), PERMISSIONS)
def test_wanted_permissions(
    mode: int, saved: int | None, now: int, umask: int, wanted: int | None, from_git: bool
) -> None:
    was = Target(PATH, Leaf(mode, SAVED), saved, frozenset({Leaf(REGULAR, BASE)}))
    assert wanted_permissions(was, FileState("file", SAVED, now), umask) == (wanted, from_git)


@pytest.mark.parametrize("seen", [MISSING, DIRECTORY, SPECIAL, on_disk("link", SAVED)])
def test_only_a_file_has_permissions_to_set(seen: FileState) -> None:
    assert wanted_permissions(FILE, seen, 0o022) == (None, False)
    assert wanted_permissions(LINK, on_disk("file", SAVED), 0o022) == (None, False)
    assert wanted_permissions(NOTHING, on_disk("file", SAVED), 0o022) == (None, False)


@pytest.mark.parametrize(
    ("seen", "leaf", "expected"),
    [
        (MISSING, None, True),
        (MISSING, Leaf(REGULAR, BASE), False),
        (on_disk("file", BASE), None, False),
        (on_disk("file", BASE), Leaf(REGULAR, BASE), True),
        (on_disk("file", STRANGE), Leaf(REGULAR, BASE), False),
        (on_disk("file", BASE), Leaf(SYMLINK, BASE), False),
        (FileState("link", BASE, 0o777), Leaf(SYMLINK, BASE), True),
        (FileState("file", BASE, 0o600), Leaf(REGULAR, BASE), False),
        (FileState("file", BASE, 0o755), Leaf(REGULAR, BASE), False),
        (FileState("file", BASE, 0o755), Leaf(EXECUTABLE, BASE), True),
    ],
)
def test_only_what_git_writes_for_an_entry_stands_as_it(seen: FileState, leaf: Leaf | None, expected: bool) -> None:
    assert stands_as(seen, leaf, 0o022) == expected
