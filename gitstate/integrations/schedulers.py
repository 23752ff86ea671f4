"""Recovery at boot: a systemd user unit, else cron's `@reboot`, else launchd; set up, shown and taken away.

The model is `git maintenance start`: absolute paths, because a scheduler's environment is bare; what is there is
replaced, so that twice is once; what is not ours is left alone. The templates are in `hooks/boot/`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from ..errors import GitstateError, NeedsPerson
from ..system import files
from ..system.program import command, shipped

SCHEDULERS = ("systemd", "cron", "launchd")
_UNITS = ("gitstate-recover.service", "agent-loop@.service")
_PLIST = "org.gitstate.recover.plist"
_MARK = "Written by `gitstate boot enable`"
_BEGIN, _END = b"# BEGIN gitstate", b"# END gitstate"
#: What leads to the list of workspaces, where it is not found from HOME alone.
_NEEDED = ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


class Status(NamedTuple):
    """How recovery at boot stands. `troubles` are pairs: what keeps it from working, and the command that helps."""

    scheduler: str | None
    enabled: bool
    files: tuple[str, ...]
    linger: bool | None
    """Whether the user's units start at boot and not at the first login; None where it does not matter."""
    command: tuple[str, ...]
    troubles: tuple[tuple[str, str], ...] = ()


def enable(scheduler: str | None = None) -> Status:
    """Set recovery up, with `scheduler` or the first that works here, and with no other.

    Raises NeedsPerson where a file of someone else stands in the way, or no scheduler works; GitstateError, OSError.
    """
    chosen = scheduler or _first_that_works()
    for other in SCHEDULERS:
        if other != chosen and _is_enabled(other):
            _REMOVE[other]()
    _SET_UP[chosen]()
    return status(chosen)


def disable() -> list[str]:
    """Take away what `enable` set up, and nothing else; returns the schedulers that had it. Raises as `enable` does."""
    found = [scheduler for scheduler in SCHEDULERS if _is_enabled(scheduler)]
    for scheduler in found:
        _REMOVE[scheduler]()
    return found


def status(scheduler: str | None = None) -> Status:
    """How it stands: with `scheduler`, or with whichever has it."""
    having = [one for one in SCHEDULERS if _is_enabled(one)]
    chosen = scheduler or (having[0] if having else None)
    enabled = chosen in having
    places = {"systemd": [_unit_path(name) for name in _UNITS], "launchd": [_plist_path()]}.get(chosen or "", [])
    troubles: list[tuple[str, str]] = []
    linger = None
    if chosen == "systemd":
        linger = _lingers()
        if enabled and linger is False:
            what = "the unit starts at your first login, not at boot: lingering is off"
            troubles.append((what, f"loginctl enable-linger {_user()}"))
    if enabled and not _is_current(chosen or ""):
        troubles.append(("it was set up with another command or template than this gitstate's", "gitstate boot enable"))
    standing = tuple(path for path in places if os.path.exists(path))
    return Status(chosen, enabled, standing, linger, tuple(command()), tuple(troubles))


def _environment() -> dict[str, str]:
    """What a scheduler's bare environment lacks: where git is, and where the list of workspaces is."""
    found = {name: os.environ[name] for name in _NEEDED if os.environ.get(name)}
    git = shutil.which("git")
    places = [os.path.dirname(git)] if git else []
    found["PATH"] = ":".join(dict.fromkeys([*places, "/usr/local/bin", "/usr/bin", "/bin"]))
    return found


def _template(name: str) -> str:
    return shipped(f"boot/{name}").decode("utf-8")


def _first_that_works() -> str:
    if sys.platform == "darwin":
        return "launchd"
    if shutil.which("systemctl") and _call(["systemctl", "--user", "show-environment"]).returncode == 0:
        return "systemd"
    if shutil.which("crontab"):
        return "cron"
    if shutil.which("launchctl"):
        return "launchd"
    raise NeedsPerson(
        "neither a systemd user manager nor cron nor launchd works here",
        hint="let whatever starts your agents run: gitstate recover --all",
    )


def _call(words: Sequence[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            words, input=given, capture_output=True, check=False, timeout=60, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise NeedsPerson(f"there is no {words[0]} here", hint="gitstate boot enable --scheduler cron") from None
    except subprocess.TimeoutExpired:
        raise GitstateError(f"{words[0]} did not answer for a minute", hint="gitstate boot status") from None


def answer(words: Sequence[str]) -> bytes:
    """What a command of the user's prints on both streams; nothing where it does not start or does not end."""
    try:
        done = _call(words)
    except (GitstateError, OSError):
        return b""
    return done.stdout + done.stderr


def _must(words: Sequence[str], given: bytes = b"") -> bytes:
    done = _call(words, given)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitstateError(
            f"{' '.join(words[:3])} failed: {said[-1] if said else f'status {done.returncode}'}",
            hint="gitstate boot enable --scheduler cron",
        )
    return done.stdout


def _is_enabled(scheduler: str) -> bool:
    if scheduler == "systemd":
        return _is_ours(_unit_path(_UNITS[0]))
    if scheduler == "launchd":
        return _is_ours(_plist_path())
    with contextlib.suppress(GitstateError):
        return shutil.which("crontab") is not None and _BEGIN in _crontab()
    return False


def _is_current(scheduler: str) -> bool:
    """Whether what stands there is what would be written now."""
    if scheduler == "cron":
        return _with_block(_crontab(), _cron_block()) == _crontab()
    wanted = {_unit_path(name): _unit(name) for name in _UNITS} if scheduler == "systemd" else {_plist_path(): _plist()}
    return all(_read(path) == text for path, text in wanted.items())


# -- files of ours


def _read(path: str) -> str | None:
    data = files.read_limited(os.fsencode(path), 1 << 20)
    return None if data is None else data.decode("utf-8", "replace")


def _is_ours(path: str) -> bool:
    return _MARK in (_read(path) or "")


def _write(path: str, text: str) -> None:
    if os.path.lexists(path) and not _is_ours(path):
        raise NeedsPerson(f"{path} is not gitstate's; it was left alone", hint=f"mv {path} {path}.mine")
    directory = os.fsencode(os.path.dirname(path))
    files.make_directory(directory, top=b"/")
    if _read(path) != text:
        files.write_atomic(os.fsencode(path), text.encode("utf-8"), staging=directory, mode=0o644)


def _remove(path: str) -> None:
    if _is_ours(path):
        files.remove(os.fsencode(path))


# -- systemd


def _unit_path(name: str) -> str:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(config, "systemd", "user", name)


def _unit(name: str) -> str:
    environment = "\n".join(f"Environment={_unit_word(f'{key}={value}')}" for key, value in _environment().items())
    words = [_unit_word(word).replace("$", "$$") for word in command()]
    if not re.fullmatch(r"[\w./+-]+", command()[0]):
        # As the name of a program systemd refuses quotes, and takes $ as it stands.
        words.insert(0, "/usr/bin/env")
    return _template(name).replace("@GITSTATE@", " ".join(words)).replace("@ENVIRONMENT@", environment)


def _unit_word(text: str) -> str:
    """One word of a unit file (`man systemd.syntax`): quoted, with no specifier in it."""
    if "\n" in text:
        raise NeedsPerson("a path with a line end can't stand in a unit file", hint="move gitstate elsewhere")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _set_up_systemd() -> None:
    # Where no user manager answers, nothing is written.
    _must(["systemctl", "--user", "show-environment"])
    for name in _UNITS:
        _write(_unit_path(name), _unit(name))
    _must(["systemctl", "--user", "daemon-reload"])
    _must(["systemctl", "--user", "enable", _UNITS[0]])


def _remove_systemd() -> None:
    for name in _UNITS:
        if _is_ours(_unit_path(name)):
            # Without a user manager there is nothing that would start them; the files go all the same.
            _call(["systemctl", "--user", "disable", name])
            _remove(_unit_path(name))
    _call(["systemctl", "--user", "daemon-reload"])


def _lingers() -> bool | None:
    if shutil.which("loginctl") is None:
        return None
    done = _call(["loginctl", "show-user", _user(), "--property=Linger"])
    if done.returncode:
        # A user without a session is unknown to logind; what it would do is in its files.
        return os.path.exists(os.path.join("/var/lib/systemd/linger", _user()))
    return done.stdout.strip() == b"Linger=yes"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# -- cron


def _crontab() -> bytes:
    done = _call(["crontab", "-l"])
    if done.returncode and b"no crontab" not in done.stderr.lower() and done.stderr.strip():
        # What can't be read must not be written over.
        raise GitstateError(f"crontab -l failed: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
    return done.stdout if not done.returncode else b""


def _cron_block() -> bytes:
    environment = " ".join(f"{key}={_shell_word(value)}" for key, value in _environment().items())
    words = " ".join(_shell_word(word) for word in command())
    text = _template("crontab").replace("@ENVIRONMENT@", environment).replace("@GITSTATE@", words)
    # A bare per cent sign ends a cron command (`man 5 crontab`).
    return text.replace("%", "\\%").encode("utf-8", "surrogateescape")


def _shell_word(text: str) -> str:
    import shlex

    if "\n" in text:
        raise NeedsPerson("a path with a line end can't stand in a crontab", hint="move gitstate elsewhere")
    return shlex.quote(text)


def _with_block(crontab: bytes, block: bytes) -> bytes:
    """A crontab with `block` in place of ours, or at its end; every other line stays as it is."""
    kept: list[bytes] = []
    inside = placed = False
    for line in crontab.splitlines(keepends=True):
        if line.startswith(_BEGIN):
            inside = True
            if not placed:
                kept.append(block)
                placed = True
        elif inside and line.startswith(_END):
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise NeedsPerson("the crontab has our first line and not our last; it was left alone", hint="crontab -e")
    if not placed and block:
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        kept.append(block)
    return b"".join(kept)


def _set_up_cron() -> None:
    before = _crontab()
    after = _with_block(before, _cron_block())
    if after != before:
        _must(["crontab", "-"], after)


def _remove_cron() -> None:
    before = _crontab()
    after = _with_block(before, b"")
    if after != before:
        _must(["crontab", "-"], after)


# -- launchd


def _plist_path() -> str:
    return os.path.join(os.path.expanduser("~"), "Library", "LaunchAgents", _PLIST)


def _plist() -> str:
    words = "\n".join(f"\t\t<string>{escape(word)}</string>" for word in command())
    pairs = _environment().items()
    environment = "\n".join(f"\t\t<key>{key}</key>\n\t\t<string>{escape(value)}</string>" for key, value in pairs)
    return _template(_PLIST).replace("@GITSTATE@", words).replace("@ENVIRONMENT@", environment)


def _set_up_launchd() -> None:
    path, domain = _plist_path(), f"gui/{os.getuid()}"
    changed = _read(path) != _plist()
    _write(path, _plist())
    loaded = _call(["launchctl", "print", f"{domain}/org.gitstate.recover"]).returncode == 0
    if loaded and changed:
        _call(["launchctl", "bootout", f"{domain}/org.gitstate.recover"])
    if changed or not loaded:
        _must(["launchctl", "bootstrap", domain, path])


def _remove_launchd() -> None:
    if _is_ours(_plist_path()):
        _call(["launchctl", "bootout", f"gui/{os.getuid()}/org.gitstate.recover"])
        _remove(_plist_path())


_SET_UP = {"systemd": _set_up_systemd, "cron": _set_up_cron, "launchd": _set_up_launchd}
_REMOVE = {"systemd": _remove_systemd, "cron": _remove_cron, "launchd": _remove_launchd}
