"""What is wrong with the files of a git directory, each with the command that mends it; git reads them at each start.

By default git syncs packs only, and renames other files into place before their bytes are on the disk: after a power
cut such a file may be empty, or hold zeros.
"""

from __future__ import annotations

import os
import stat

from ...system import files
from ...system.stdlib import TYPE_CHECKING, Record, quote, suppress
from ..command import Git, is_oid
from ..gitdir import NO_HEAD, is_directory_path, path_named_in, read_head_file, strange_files
from .head import (
    LONGEST,
    branches,
    is_cut_head,
    is_head_ref,
    is_packed_ref,
    last_head,
    last_value,
    refused_settings,
    without_setting,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ..gitdir import StrangeFile

_LARGEST_BLANK = 16 << 20


class Damage(Record):
    """A file or directory that git needs, and can't use as it is."""

    path: bytes
    """Absolute."""
    what: str
    """What is damaged, for people."""
    command: str
    """The command that helps."""
    content: bytes | None = None
    """What the file should contain; None where that is unknown."""
    disposable: bool = False
    """Whether removing the file is the repair."""
    stops_git: bool = False
    """Whether git may read no object until it is mended: nobody can tell meanwhile whether a save is whole."""

    @property
    def repairable(self) -> bool:
        """Whether `repair_damage` can do something."""
        return self.content is not None or self.disposable


class DamagedGitDir(Record):
    """What git can't read of a git directory, and what is known of it all the same."""

    files: tuple[Damage, ...]
    """Never empty."""
    head: bytes | None
    """What HEAD holds, or held by all that is known, without the line end; None where that is unknown."""
    config: bytes
    """The lines of the configuration that git can read."""
    packed_refs: bytes
    """The lines of `packed-refs` that git can read."""
    shared_is_whole: bool
    """Whether git can use all that the worktrees share, as it is."""
    worktree_config: bytes | None = None
    """The lines of the worktree's own configuration that git can read; None where that is whole, or there is none."""

    @property
    def why(self) -> str:
        """All that is damaged, as a clause."""
        return "; ".join(item.what for item in self.files)


def damaged_git_dir(
    toplevel: bytes, git_dir: bytes, common_dir: bytes, branch: str | None = None
) -> DamagedGitDir | None:
    """What git can't read of the git directory of a worktree; None where it can read all that this looks at.

    `branch` is the branch on which the agent works, as the context has it. Objects and index are not looked at.
    """
    found: list[Damage] = []
    head = _look_at_head(git_dir, common_dir, branch, found)
    _look_at_links(os.path.join(toplevel, b".git"), git_dir, common_dir, found)
    strange = strange_files(git_dir, common_dir)
    found += _strange(strange, toplevel, [item.path for item in found])
    own_config = _look_at_own_config(git_dir, common_dir, found)
    own = sum(_is_own(item.path, git_dir, common_dir) for item in found)
    is_shared_whole = own == len(found)
    own = len(found)
    for name, below in ((b"refs", b"heads"), (b"objects", b"pack")):
        path = os.path.join(common_dir, name)
        if not os.path.isdir(path):
            command = f"mkdir -p {quoted(os.path.join(path, below))}"
            what = f"the directory {shown(path)} is missing"
            if os.path.lexists(path):
                what, command = f"{shown(path)} is no directory", f"rm {quoted(path)} && {command}"
            found.append(Damage(path, what, command))
    config = _look_at_config(os.path.join(common_dir, b"config"), found)
    packed_refs = _look_at_packed_refs(common_dir, found)
    _look_at_shallow(common_dir, found)
    is_shared_whole = is_shared_whole and len(found) == own
    return DamagedGitDir(tuple(found), head, config, packed_refs, is_shared_whole, own_config) if found else None


def _is_own(path: bytes, git_dir: bytes, common_dir: bytes) -> bool:
    """Whether a damaged file belongs to the one worktree, or is read through no git dir that stands in."""
    names = (b"HEAD", b"index", b"commondir", b"logs/HEAD", b"config.worktree", b"info/sparse-checkout")
    return os.path.basename(path) == b".git" or path in [os.path.join(git_dir, name) for name in names]


def _strange(strange: Iterable[StrangeFile], toplevel: bytes, known: Collection[bytes]) -> Iterator[Damage]:
    """The files in whose place something else stands, each with the command that puts it right."""
    where = quoted(toplevel)
    for path, kind in strange:
        if path in known:
            continue
        command = f"rm -r {quoted(path)}"
        if is_directory_path(path):
            command = out_of_the_way(path, kind)
            yield Damage(path, f"{shown(path)} is {kind}, not a directory", command)
            continue
        if path.endswith(b"/index"):
            command += f" && git -C {where} reset"
        elif path.endswith(b"/config"):
            command += f" && git -C {where} init"
        elif b"/refs/heads/" in path and b"/logs/" not in path:
            common, _, name = path.partition(b"/refs/heads/")
            last = last_value(os.path.join(common, b"logs/refs/heads", name))
            command += f" && git -C {where} update-ref {quoted(b'refs/heads/' + name)} {last}" if last else ""
        yield Damage(path, f"{shown(path)} is {kind}", command)


def _look_at_head(git_dir: bytes, common_dir: bytes, branch: str | None, found: list[Damage]) -> bytes | None:
    """What HEAD holds, or held. Where git can't read it, that is added to `found`."""
    path, data = os.path.join(git_dir, b"HEAD"), b""
    is_file = os.path.isfile(path)
    with suppress(OSError):
        data = read_head_file(git_dir)
    line = data.strip(b"\0 \t\r\n")
    known = last_head(git_dir, common_dir, branch)
    is_cut = is_head_ref(line) and is_cut_head(git_dir, common_dir, known)
    if is_oid(line[:64].decode("latin-1")) or data.startswith(NO_HEAD) or (is_head_ref(line) and not is_cut):
        return line
    if is_file and not may_read(path):
        found.append(Damage(path, "HEAD may not be read by this user", way_to_use(path)))
        return known
    kinds = {item.path: item.kind for item in strange_files(git_dir, common_dir)}
    what = "is missing" if not os.path.lexists(path) else "is empty" if is_file and not line else "names no branch"
    what = f"is {kinds[path]}" if path in kinds else "is cut off" if is_cut else what
    clear = "" if is_file or not os.path.lexists(path) else f"rm -r {quoted(path)} && "
    if known is None:
        ways = [f"{clear}echo {quoted(b'ref: ' + ref)} >{quoted(path)}" for ref in branches(common_dir)]
        found.append(Damage(path, f"HEAD {what}; its branch is unknown", ", or: ".join(ways)))
    else:
        was = "" if known == NO_HEAD else f"; it was on {os.fsdecode(known.removeprefix(b'ref: '))}"
        found.append(Damage(path, f"HEAD {what}{was}", f"{clear}echo {quoted(known)} >{quoted(path)}"))
    return known


def _look_at_links(dot_git: bytes, git_dir: bytes, common_dir: bytes, found: list[Damage]) -> None:
    """The two small files that lead from a linked worktree to its git dir, and from there to what is shared."""
    top = os.path.dirname(dot_git)
    wanted = [] if os.path.isdir(dot_git) else [(dot_git, b"gitdir: ", top, git_dir, git_dir)]
    wanted += (
        [(os.path.join(git_dir, b"commondir"), b"", git_dir, common_dir, b"../..")] if git_dir != common_dir else []
    )
    for path, prefix, base, target, line in wanted:
        if path_named_in(path, prefix, base) != target:
            what = f"{shown(path)} {_how_lost(path)}"
            found.append(Damage(path, what, f"echo {quoted(prefix + line)} >{quoted(path)}"))


def _how_lost(path: bytes) -> str:
    """What is wrong with a small file of git's that names no path which is there."""
    data = files.read_limited(path, 65_536)
    if data is None:
        return "is unreadable" if os.path.lexists(path) else "is missing"
    return "leads nowhere" if data.strip(b"\0\r\n ") else "is empty"


def lost_backlink(path: bytes, toplevel: bytes | None) -> Damage:
    """What is wrong with the `gitdir` of a linked worktree, one of `lost_backlinks`; its top is known as a rule."""
    wanted = b"PATH/.git" if toplevel is None else os.path.join(toplevel, b".git")
    what = f"{shown(path)} {_how_lost(path)}: git worktree prune, and git gc, would remove the worktree"
    command = f"echo {quoted(wanted)} >{quoted(path)}"
    return Damage(path, what, command, None if toplevel is None else wanted + b"\n")


def _look_at_own_config(git_dir: bytes, common_dir: bytes, found: list[Damage]) -> bytes | None:
    """The same as `_look_at_config` for that of the worktree alone; None where git reads none, or all of it."""
    path, known = os.path.join(git_dir, b"config.worktree"), len(found)
    shared = files.read_limited(os.path.join(common_dir, b"config"), LONGEST) or b""
    if not os.path.isfile(path) or b"worktreeconfig" not in shared.lower():
        return None
    config = _look_at_config(path, found)
    return config if len(found) > known else None


def _look_at_config(path: bytes, found: list[Damage]) -> bytes:
    """A configuration without the lines that git can't read, each of which is added to `found`."""
    from ..strange import strange_includes, strange_lines, with_absolute_includes

    directory = os.path.dirname(path)
    data = files.read_limited(path, LONGEST) or b""
    if data and not data.strip(b"\0"):
        command = f"rm {quoted(path)}"
        if os.path.basename(path) == b"config":
            command += f" && git -C {quoted(os.path.dirname(directory))} init"
        found.append(Damage(path, f"{shown(path)} holds zeros only", command))
        return b""
    lines = data.split(b"\n")
    kinds = [*_TYPES]
    for _ in range(30):
        if not kinds:
            break
        # It lists all lines before it reads a value.
        argv = ("--no-includes", "--file", "-", f"--type={kinds[0]}", "--get-regexp", _TYPES[kinds[0]], _WORDS)
        process = Git(b"/").start("config", *argv)
        _, said = process.communicate(b"\n".join(lines))
        key = said.partition(b" config value ")[2].rpartition(b" for '")[2].split(b"'")[0]
        if key:
            bad = said.partition(b": ")[2].strip().replace(b" in standard input", b"")
            command = f"git config --file {quoted(path)} --unset-all {quoted(key)}"
            found.append(Damage(path, f"{shown(path)} has a {os.fsdecode(bad)}", command))
            lines = without_setting(lines, key)
            continue
        number = said.partition(b"bad config line ")[2].split(b" ", 1)[0]
        if not number.isdigit() or not 0 < int(number) <= len(lines):
            del kinds[0]
            continue
        # Git counts a last line that is not ended as the next one.
        at = int(number) - 1 if lines[int(number) - 1].strip() else int(number) - 2
        what = f"line {at + 1} of {shown(path)} is unreadable"
        found.append(Damage(path, what, f'"${{EDITOR:-vi}}" +{at + 1} {quoted(path)}'))
        lines[at] = b""
    for target, kind, command in strange_includes(path, lines):
        found.append(Damage(path, f"{shown(path)} includes {os.fsdecode(target)}, which is {kind}", command))
    strange = strange_lines(path, lines=lines)
    lines = [b"" if at in strange else line for at, line in enumerate(lines)]
    lines = list(with_absolute_includes(lines, directory))
    with suppress(OSError):
        for key, why in refused_settings(lines):
            # In the repository git ends at the setting, whatever it is asked.
            command = f"git -C / config --file {quoted(path)} --unset-all {quoted(key)}"
            what = f"git refuses the value of {os.fsdecode(key)} in {shown(path)}: {why}"
            found.append(Damage(path, what, command, stops_git=True))
            lines = without_setting(lines, key)
    return b"\n".join(lines)


#: Settings by their type: with a value that it can't read git opens no repository, or reads no file.
_TYPES = {
    "bool": r"^(core\.(bare|filemode|symlinks|ignorecase|precomposeunicode|sparsecheckout|trustctime|splitindex"
    r"|ignorestat|preloadindex|quotepath|logallrefupdates|autocrlf|safecrlf)|filter\..*\.required|diff\.renames"
    r"|status\.renames)$",
    "int": r"^core\.(bigfilethreshold|(loose)?compression|abbrev|packedgit(limit|windowsize)|deltabasecachelimit)$",
    "bool-or-int": r"^(index\.threads|status\.submodulesummary)$",
}
#: Words that some of them may have for a value.
_WORDS = "!^(always|input|warn|copies|copy|auto|no)$"


def _look_at_packed_refs(common_dir: bytes, found: list[Damage]) -> bytes:
    """The lines of `packed-refs` that git can read."""
    path = os.path.join(common_dir, b"packed-refs")
    data = files.read_limited(path, LONGEST) or b""
    good = [line for line in data.split(b"\n") if is_packed_ref(line)]
    text = b"".join(line + b"\n" for line in good)
    if text != data:
        # The order of what is left is still git's.
        broken = os.path.join(common_dir, b"packed-refs.broken")
        pattern = "^(#|[0-9a-f]{40,64} refs/.|\\^[0-9a-f]{40,64}$)"
        take = f"LC_ALL=C sed -nE '\\%{pattern}%p' {quoted(broken)} >{quoted(path)}"
        found.append(Damage(path, f"{shown(path)} is damaged", f"mv {quoted(path)} {quoted(broken)}; {take}"))
    return text


def _look_at_shallow(common_dir: bytes, found: list[Damage]) -> None:
    path = os.path.join(common_dir, b"shallow")
    data = files.read_limited(path, LONGEST) or b""
    if not all(is_oid(line.decode("latin-1")) for line in data.split(b"\n")[:-1]) or data[-1:] not in (b"", b"\n"):
        where = quoted(os.path.dirname(common_dir))
        command = f"rm {quoted(path)} && git -C {where} fetch --refetch"
        found.append(Damage(path, f"{shown(path)} is damaged", command))


class AmongFiles(Record):
    """A git dir that is in the worktree under another name than `.git`."""

    what: str
    """What that means, for people."""
    command: str
    """Moves it out of the worktree."""


def among_files(toplevel: bytes, common_dir: bytes) -> AmongFiles:
    """What to say of a git dir that is in the worktree under another name than `.git` (`is_among_files`)."""
    name = os.fsdecode(os.path.relpath(common_dir, toplevel))
    place = quote(os.fsdecode(toplevel) + ".git")
    command = f"git -C {quote(os.fsdecode(toplevel))} init --separate-git-dir={place}"
    command += "".join(_ways_back(common_dir, toplevel + b".git"))
    return AmongFiles(f"the git directory {name} is in the worktree: git clean -x deletes it with all saves", command)


def _ways_back(common_dir: bytes, moved: bytes) -> Iterator[str]:
    """The commands after which submodules and their git dirs find each other, where git has moved the one around."""
    tops = [os.path.join(common_dir, b"modules"), os.path.join(common_dir, b"worktrees")]
    for directory, names, there in (found for top in tops for found in files.walk(top)):
        if b"config" not in there or b"objects" not in names:
            continue
        names.remove(b"objects")
        named = named_worktree(directory)
        place = None if named is None else os.path.realpath(named)
        if place is not None and os.path.isfile(os.path.join(place, b".git")):
            store = os.path.join(moved, os.path.relpath(directory, common_dir))
            line, link = (quote(os.fsdecode(word)) for word in (b"gitdir: " + store, os.path.join(place, b".git")))
            own, top = (quote(os.fsdecode(word)) for word in (os.path.join(store, b"config"), place))
            yield f" && git config -f {own} core.worktree {top} && echo {line} >{link}"


def named_worktree(git_dir: bytes) -> bytes | None:
    """The worktree that `core.worktree` of a submodule's git dir names, links not resolved; None where it names none.

    A FIFO in the place of the configuration is not read: git would wait for ever.
    """
    config = os.path.join(git_dir, b"config")
    if not os.path.isfile(config):
        return None
    named = Git(b"/").run("config", "-z", "-f", config, "core.worktree", ok_codes=range(256)).removesuffix(b"\0")
    return os.path.join(os.path.realpath(git_dir), named) if named else None


def is_blank(path: bytes) -> bool:
    """Whether there is a regular file that is empty, or holds zeros only."""
    try:
        if os.lstat(path).st_size > _LARGEST_BLANK:
            return False
    except OSError:
        return False
    data = files.read_limited(path, _LARGEST_BLANK)
    return data is not None and not data.strip(b"\0")


def blank_objects(where: str, common_dir: bytes) -> Iterator[Damage]:
    """Empty loose objects. Git fails at them; where they are gone it looks into the packs."""
    objects = os.path.join(common_dir, b"objects")
    for number in range(256):
        try:
            with os.scandir(os.path.join(objects, b"%02x" % number)) as listing:
                blank = [entry.path for entry in listing if entry.stat(follow_symlinks=False).st_size == 0]
        except OSError:
            continue
        for path in blank:
            oid = os.fsdecode(b"%02x" % number + os.path.basename(path))
            if is_oid(oid):
                command = f"rm -f {quoted(path)} && git -C {where} fsck"
                yield Damage(path, f"object {oid[:12]} is empty", command, disposable=True)


def missing_alternate(common_dir: bytes) -> bytes | None:
    """The first object directory that `info/alternates` names and that does not exist."""
    objects = os.path.join(common_dir, b"objects")
    data = files.read_limited(os.path.join(objects, b"info", b"alternates"), 65_536) or b""
    named = [os.path.join(objects, line) for line in data.split(b"\n") if line.strip(b"\0") and line[:1] != b"#"]
    return next((path for path in named if not os.path.isdir(path.rstrip(b"\0"))), None)


def _user(uid: int) -> str:
    import pwd

    try:
        return quote(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return quote(f"#{uid}")


def way_to_use(path: bytes) -> str:
    """The command after which this user may read and write what is at `path`, or the directory that hides it."""
    path = what_is_there(path)
    info = os.lstat(path)
    if info.st_uid == os.geteuid():
        if info.st_mode & stat.S_IWUSR and info.st_mode & stat.S_IRUSR and not os.access(path, os.W_OK):
            # Its mode allows it: it is immutable, or may only be appended to.
            return f"sudo chattr -i -a {quoted(path)}"
        return f"chmod -R u+rwX {quoted(path)}"
    worktree = path.partition(b"/.git/")[0] if b"/.git/" in path else os.path.dirname(path)
    if os.lstat(worktree or b"/").st_uid == info.st_uid:
        # All of it is theirs. Taken away from them, git would no longer open it for them.
        return f"sudo -u {_user(info.st_uid)} gitstate …, as its owner does"
    return f"sudo chown -R {os.geteuid()} {quoted(path)}"


def what_is_there(path: bytes) -> bytes:
    """`path`, or the nearest directory above it that exists."""
    while not os.path.lexists(path) and len(path) > 1:
        path = os.path.dirname(path)
    return path


def may_read(path: bytes) -> bool:
    """Whether this user may read a file, or look into a directory; also where there is nothing."""
    return not os.path.lexists(path) or os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))


def out_of_the_way(path: bytes, kind: str) -> str:
    """The command that makes room for a directory. A regular file may hold something, and below `refs` git reads it."""
    above, refs, _ = path.partition(b"/refs/")
    aside = os.path.join(above if refs else os.path.dirname(path), os.path.basename(path) + b".aside")
    return f"mv {quoted(path)} {quoted(aside)}" if kind == "a regular file" else f"rm {quoted(path)}"


def quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))


def shown(path: bytes) -> str:
    """The last parts of a path, as people name it."""
    return os.fsdecode(path[path.rfind(b"/.git/") + 1 :] if b"/.git/" in path else path)
