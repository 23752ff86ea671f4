"""Recovery at boot: a systemd user unit, else `@reboot` of cron, else launchd; enabled, shown and disabled.

The model is `git maintenance start`: paths are absolute, because a scheduler's environment is bare; what gitstate wrote
before is replaced; what it did not write stays. The templates are in `hooks/boot/`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape

from ..errors import GitstateError, NeedsPerson
from ..system import files
from ..system.child import command
from .scheduler import (
    EITHER,
    Scheduler,
    are_current,
    call,
    is_ours,
    log_file,
    must_succeed,
    needed_environment,
    read_file,
    template,
    write_file,
)

_UNITS = ("gitstate-recover.service", "agent-loop@.service")
_LABEL = "org.gitstate.recover"
_PLIST = f"{_LABEL}.plist"
#: What gitstate's lines in a crontab begin and end with.
_BEGIN, _END = b"# BEGIN gitstate", b"# END gitstate"


class BootStatus(NamedTuple):
    """Whether recovery runs at boot."""

    scheduler: str | None
    """The scheduler that was asked about, else the one that has it; None where none has it."""
    enabled: bool
    files: tuple[str, ...]
    """The files that were written for it."""
    linger: bool | None
    """Whether the user's units start at boot and not at the first login; None where that is unknown or no question."""
    command: tuple[str, ...]
    """The words that start this gitstate."""
    troubles: tuple[tuple[str, str], ...] = ()
    """What keeps it from running, each with the command that mends it."""


def enable(scheduler: str | None = None, *, resumes: bool = False) -> BootStatus:
    """Set recovery up with `scheduler`, else with the first that works here, and remove it from all others. With
    `resumes` the interrupted agents are then started again.

    Raises NeedsPerson where another program's file stands in the way, or no scheduler works; GitstateError, OSError.
    """
    chosen = scheduler or _first_that_works()
    for name, other in SCHEDULERS.items():
        if name != chosen and other.is_enabled():
            other.remove()
    SCHEDULERS[chosen].set_up(resumes=resumes)
    return status(chosen)


def disable() -> list[str]:
    """Undo `enable`; returns the names of the schedulers that had it. Raises as `enable` does."""
    enabled = [name for name, scheduler in SCHEDULERS.items() if scheduler.is_enabled()]
    for name in enabled:
        SCHEDULERS[name].remove()
    return enabled


def status(scheduler: str | None = None) -> BootStatus:
    """Whether it is enabled: with `scheduler`, else with any."""
    enabled = [name for name, one in SCHEDULERS.items() if one.is_enabled()]
    chosen = scheduler or next(iter(enabled), None)
    if chosen is None:
        return BootStatus(None, False, (), None, command())
    troubles: list[tuple[str, str]] = []
    linger = _lingers() if chosen == "systemd" else None
    if chosen in enabled and linger is False:
        what = "the unit starts at your first login, not at boot: lingering is off"
        troubles.append((what, f"loginctl enable-linger {_user()}"))
    if chosen in enabled and not SCHEDULERS[chosen].is_current():
        troubles.append(("it was set up with another command or template than this gitstate's", "gitstate boot enable"))
    standing = tuple(path for path in SCHEDULERS[chosen].paths() if os.path.exists(path))
    return BootStatus(chosen, chosen in enabled, standing, linger, command(), tuple(troubles))


def _first_that_works() -> str:
    order = ("launchd",) if sys.platform == "darwin" else tuple(SCHEDULERS)
    for name in order:
        if SCHEDULERS[name].works():
            return name
    raise NeedsPerson(
        "neither a systemd user manager nor cron nor launchd works here",
        hint="let whatever starts your agents run: gitstate recover --all",
    )


def any_works() -> bool:
    """Whether `enable` would find a scheduler here; in most containers none works."""
    try:
        return bool(_first_that_works())
    except NeedsPerson:
        return False


# -- systemd

_SYSTEMCTL = ("systemctl", "--user")


class Systemd(Scheduler):
    """A unit of the user's systemd."""

    def works(self) -> bool:
        return bool(shutil.which("systemctl")) and call([*_SYSTEMCTL, "show-environment"]).returncode == 0

    def is_enabled(self) -> bool:
        return is_ours(_unit_path(_UNITS[0]))

    def is_current(self) -> bool:
        return any(
            are_current({_unit_path(name): _unit(name, resumes=resumes) for name in _UNITS}) for resumes in EITHER
        )

    def paths(self) -> list[str]:
        return [_unit_path(name) for name in _UNITS]

    def set_up(self, *, resumes: bool) -> None:
        # Raise before the first write if no user manager answers.
        must_succeed([*_SYSTEMCTL, "show-environment"])
        for name in _UNITS:
            write_file(_unit_path(name), _unit(name, resumes=resumes))
        must_succeed([*_SYSTEMCTL, "daemon-reload"])
        must_succeed([*_SYSTEMCTL, "enable", _UNITS[0]])

    def remove(self) -> None:
        for name in _UNITS:
            if is_ours(_unit_path(name)):
                # This fails without a user manager, which nothing would start then: the file is removed all the same.
                call([*_SYSTEMCTL, "disable", name])
                files.remove(os.fsencode(_unit_path(name)))
        call([*_SYSTEMCTL, "daemon-reload"])


def _unit_path(name: str) -> str:
    named = os.environ.get("XDG_CONFIG_HOME", "")
    config = named if named.startswith("/") else os.path.join(os.fsdecode(files.home()), ".config")
    return os.path.join(config, "systemd", "user", name)


def _unit(name: str, *, resumes: bool = False) -> str:
    pairs = needed_environment().items()
    environment = "\n".join(f"Environment={_unit_word(f'{key}={value}')}" for key, value in pairs)
    words = [_unit_word(word).replace("$", "$$") for word in command()]
    if not re.fullmatch(r"[\w./+-]+", command()[0]):
        # As the name of a program systemd refuses quotes, and takes $ as it stands.
        words.insert(0, "/usr/bin/env")
    text = template(name)
    if not resumes:
        text = "".join(line for line in text.splitlines(True) if not line.startswith(("ExecStart=-", "# Resume ")))
    return text.replace("@GITSTATE@", " ".join(words)).replace("@ENVIRONMENT@", environment)


def _unit_word(text: str) -> str:
    """One word of a unit file (`man systemd.syntax`): quoted, with no specifier in it."""
    if "\n" in text:
        raise NeedsPerson("a path with a line end can't stand in a unit file", hint="move gitstate elsewhere")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _lingers() -> bool | None:
    if shutil.which("loginctl") is None:
        return None
    done = call(["loginctl", "show-user", _user(), "--property=Linger"])
    if done.returncode:
        # logind does not know a user without a session; its files say what it would do.
        return os.path.exists(os.path.join("/var/lib/systemd/linger", _user()))
    return done.stdout.strip() == b"Linger=yes"


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# -- cron


class Cron(Scheduler):
    """A line `@reboot` in the user's crontab."""

    def works(self) -> bool:
        return bool(shutil.which("crontab"))

    def is_enabled(self) -> bool:
        with contextlib.suppress(GitstateError):
            return self.works() and _BEGIN in _crontab()
        return False

    def is_current(self) -> bool:
        return any(_with_block(_crontab(), _cron_block(resumes=resumes)) == _crontab() for resumes in EITHER)

    def paths(self) -> list[str]:
        return []  # the crontab is not gitstate's own

    def set_up(self, *, resumes: bool) -> None:
        _replace_block(_cron_block(resumes=resumes))

    def remove(self) -> None:
        _replace_block(b"")


def _replace_block(block: bytes) -> None:
    before = _crontab()
    after = _with_block(before, block)
    if after != before:
        must_succeed(["crontab", "-"], after)


def _crontab() -> bytes:
    done = call(["crontab", "-l"])
    if done.returncode and b"no crontab" not in done.stderr.lower() and done.stderr.strip():
        # A crontab that can't be read must not be replaced.
        raise GitstateError(f"crontab -l failed: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
    return done.stdout if not done.returncode else b""


def _cron_block(*, resumes: bool) -> bytes:
    environment = " ".join(f"{key}={_shell_word(value)}" for key, value in needed_environment().items())
    words = " ".join(_shell_word(word) for word in command())
    text = template("crontab")
    if resumes:
        # It recovers each workspace first.
        text = text.replace(
            _END.decode(), f"@reboot @ENVIRONMENT@ @GITSTATE@ resume --all >/dev/null 2>&1\n{_END.decode()}"
        )
    text = text.replace("@ENVIRONMENT@", environment).replace("@GITSTATE@", words)
    text = text.replace("@LOG@", _shell_word(log_file()))
    # A bare per cent sign ends a cron command (`man 5 crontab`).
    return text.replace("%", "\\%").encode("utf-8", "surrogateescape")


def _shell_word(text: str) -> str:
    if "\n" in text:
        raise NeedsPerson("a path with a line end can't stand in a crontab", hint="move gitstate elsewhere")
    return shlex.quote(text)


def _with_block(crontab: bytes, block: bytes) -> bytes:
    """The crontab with `block` in place of our lines, or at its end; every other line stays as it is."""
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


# -- launchd


class Launchd(Scheduler):
    """A property list of the user's launchd."""

    def works(self) -> bool:
        return sys.platform == "darwin" or bool(shutil.which("launchctl"))

    def is_enabled(self) -> bool:
        return is_ours(_plist_path())

    def is_current(self) -> bool:
        return any(are_current({_plist_path(): _plist(resumes=resumes)}) for resumes in EITHER)

    def paths(self) -> list[str]:
        return [_plist_path()]

    def set_up(self, *, resumes: bool) -> None:
        path, domain = _plist_path(), f"gui/{os.getuid()}"
        changed = read_file(path) != _plist(resumes=resumes)
        write_file(path, _plist(resumes=resumes))
        loaded = call(["launchctl", "print", f"{domain}/{_LABEL}"]).returncode == 0
        if loaded and changed:
            call(["launchctl", "bootout", f"{domain}/{_LABEL}"])
        if changed or not loaded:
            must_succeed(["launchctl", "bootstrap", domain, path])

    def remove(self) -> None:
        if is_ours(_plist_path()):
            call(["launchctl", "bootout", f"gui/{os.getuid()}/{_LABEL}"])
            files.remove(os.fsencode(_plist_path()))


def _plist_path() -> str:
    return os.path.join(os.fsdecode(files.home()), "Library", "LaunchAgents", _PLIST)


def _plist(*, resumes: bool) -> str:
    words = "\n".join(f"\t\t<string>{escape(word)}</string>" for word in command())
    pairs = needed_environment().items()
    environment = "\n".join(f"\t\t<key>{key}</key>\n\t\t<string>{escape(value)}</string>" for key, value in pairs)
    text = template(_PLIST)
    if resumes:
        # `resume` recovers each workspace first.
        text = text.replace("<string>recover</string>", "<string>resume</string>")
    text = text.replace("@GITSTATE@", words).replace("@ENVIRONMENT@", environment)
    return text.replace("@LOG@", escape(log_file()))


#: In the order of preference.
SCHEDULERS: Mapping[str, Scheduler] = {"systemd": Systemd(), "cron": Cron(), "launchd": Launchd()}
