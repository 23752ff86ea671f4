"""What is held of the git directory of a repository inside a workspace, beside its refs and objects: a few files,
settings that name no program, and commits that no ref leads to."""

from __future__ import annotations

import os

from ..format.inside import HELD_FILES, MOST_FILE, MOST_SETTINGS
from ..format.manifest import MAX_SETTING
from ..format.names import without_password
from ..git import refs
from ..git.command import is_oid
from ..snapshot.gitdir import is_harmless_setting
from ..system import files
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..git.command import Oid
    from ..git.repository import Repository


def held_files(inside: Repository) -> tuple[dict[bytes, bytes], list[str]]:
    """The files that are held as they are, by their names; and those that are not, each with the reason."""
    found: dict[bytes, bytes] = {}
    others = []
    for name, place in HELD_FILES.items():
        path = os.path.join(inside.git_dir, place)
        data = files.read_limited(path, MOST_FILE)
        if data:
            found[name] = data
        elif data is None and os.path.isfile(path):
            is_large = not os.path.islink(path) and os.path.getsize(path) > MOST_FILE
            why = f"it has more than {MOST_FILE >> 20} MiB" if is_large else "it is a link, or unreadable"
            others.append(f"its {os.fsdecode(place)} ({why})")
    if not refs.refs_are_files(inside) and (log := _stash_log(inside)):
        found[b"stash"] = log
    return found, others


def _stash_log(inside: Repository) -> bytes:
    """The log of the stashes as the file that it is elsewhere, where it is in a reftable."""
    # `git rev-list` knows no more of a log than the commits.
    argv = ("-c", "log.showSignature=false", "-c", "i18n.logOutputEncoding=UTF-8", "log", "--walk-reflogs")
    words = ("--date=raw", "--format=%H%x00%gn <%ge>%x00%gd%x00%gs", "refs/stash", "--")
    lines = inside.git.run(*argv, *words, ok_codes=range(256)).split(b"\n")
    log, old = [], inside.zero.encode("ascii")
    for oid, person, named, subject in (line.split(b"\0") for line in reversed(lines) if line.count(b"\0") == 3):
        when = named.rpartition(b"@{")[2].removesuffix(b"}")
        log.append(b"%s %s %s %s\t%s\n" % (old, oid, person, when, subject))
        old = oid
    return b"".join(log)


def stashed(held: Mapping[bytes, bytes]) -> list[Oid]:
    """All stashes, of which but the newest has a ref: a log has them."""
    lines = held.get(b"stash", b"").split(b"\n")
    return sorted({oid for line in lines if line.count(b" ") > 1 and is_oid(oid := _word(line.split(b" ")[1]))})


def worktree_heads(inside: Repository) -> list[Oid]:
    """The commits on which the HEADs of the linked worktrees are detached, wherever those stand."""
    top = os.path.join(inside.common_dir, b"worktrees")
    try:
        names = os.listdir(top)
    except OSError:
        return []
    if not refs.refs_are_files(inside):
        # Those on a branch are among them: it has a ref.
        lines = inside.git.run("worktree", "list", "--porcelain", "-z").split(b"\0")
        named = {_word(line[5:]) for line in lines if line.startswith(b"HEAD ")} - {inside.zero}
        return sorted(filter(is_oid, named))
    heads = {_word(files.read_limited(os.path.join(top, name, b"HEAD"), 65_536) or b"") for name in names}
    return sorted(filter(is_oid, heads))


def _word(data: bytes) -> str:
    return data.strip().decode("ascii", "replace")


def has_lfs_objects(common_dir: bytes) -> bool:
    """Whether git-lfs keeps the content of a file in a repository: git knows nothing of it."""
    return any(names for _, _, names in files.walk(os.path.join(common_dir, b"lfs", b"objects")))


def held_settings(listed: bytes) -> tuple[tuple[str, str], ...]:
    """The settings that are held, of what `git config --list -z` tells."""
    found = []
    for item in listed.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, line_end, value = item.partition("\n")
        kept = kept_setting(name, value if line_end else "true")
        if kept is not None:
            found.append((name, kept))
    return tuple(found[:MOST_SETTINGS])


#: Settings of these sections, by the last word of their names, say where a branch or a remote is.
_WHERE = {
    "remote": ("url", "pushurl", "fetch", "tagopt", "prune"),
    "branch": ("remote", "merge", "rebase", "pushremote"),
    "submodule": ("url", "active", "branch"),
}
#: What git finds out about a file system.
_OF_THE_PLACE = ("core.filemode", "core.symlinks", "core.ignorecase", "core.precomposeunicode")


def kept_setting(name: str, value: str) -> str | None:
    """What is held of a setting of a repository inside: its value, a URL without a password; None for no word of it.

    A URL that names a program (`ext::`) is none. A branch may name a URL in place of a remote, and so may the name of
    a remote.
    """
    section, _, rest = name.partition(".")
    subsection, _, last = rest.rpartition(".")
    if len(value) > MAX_SETTING or not name.isprintable() or not value.isprintable():
        return None
    if without_password(subsection) != subsection:
        return None
    if not subsection or section not in _WHERE:
        return value if is_harmless_setting(name) and name not in _OF_THE_PLACE else None
    if last not in _WHERE[section]:
        return None
    if last not in ("url", "pushurl", "remote", "pushremote"):
        return value
    if "::" in value.partition("/")[0] or value.startswith("-"):
        return None
    plain = without_password(value)
    return plain.partition("?")[0] if plain.startswith("http") else plain
