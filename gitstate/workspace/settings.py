"""Every `gitstate.*` setting: its type, its range, its default, what it does, and how its value is read.

A value comes from the first of these that has one: the option of a command, the environment variable, git's
configuration, the default. An empty environment variable counts as not set. A value that can't be read is a
UsageError, raised before anything begins (`require`). Only a save at the end of a run goes on without it
(`with_defaults`): the work comes first.
"""

from __future__ import annotations

import os

from ..errors import GitError, UsageError
from ..format.names import remote_name
from ..git.repository import Repository, parse_bool
from ..objects.tree import is_safe_path
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A pattern goes to git as one argument, and the kernel limits its length (MAX_ARG_STRLEN, 128 KiB on Linux).
_LONGEST_PATTERN = 4096
#: Where `with_defaults` keeps its values in `Repository.config`. No key of git's has a space before its first dot.
_REPLACED = "replaced "


class Setting(Record):
    """One setting. `least` and `most` bound a number; `default` is written as in git's configuration."""

    name: str
    kind: str
    """`seconds`, `days`, `count`, `boolean`, `path` (inside the workspace), `patterns` and `remotes` (may be repeated),
    `remote`."""
    default: str | None
    meaning: str
    """For the help and the reference page: no full stop, and short enough for one line."""
    option: str | None = None
    """The option that has the same effect, or the argument."""
    least: float = 0
    most: float = 0

    @property
    def key(self) -> str:
        return f"gitstate.{self.name}"

    @property
    def repeats(self) -> bool:
        """Whether every value counts, not the last alone. In the environment each line is one."""
        return self.kind in ("patterns", "remotes")

    @property
    def variable(self) -> str:
        """The environment variable: GITSTATE_KEEP_SAVES for `keepSaves`."""
        return "GITSTATE_" + "".join(f"_{c}" if c.isupper() else c.upper() for c in self.name)


SETTINGS = (
    Setting("interval", "seconds", "10", "seconds between two checkpoints of a run", "--interval", 0.2, 86_400),
    Setting("grace", "seconds", "1.5", "seconds for the agent to end after its stop signal", "--grace", 0, 3600),
    Setting("deadline", "seconds", "4", "seconds for the whole save after a signal", "--deadline", 0.5, 3600),
    Setting("filterTimeout", "seconds", "60", "seconds that a filter of git may take for one file", None, 1, 86_400),
    Setting("hookInterval", "seconds", "15", "least seconds between checkpoints after agent tools", None, 0, 86_400),
    Setting("includeIgnored", "patterns", None, "save ignored files that match this pattern", "--include-ignored"),
    Setting("stateFile", "path", "active_state.json", "where the state file is, inside the workspace"),
    Setting("conversation", "boolean", "true", "keep the agent's transcript beside the saves, on this host"),
    Setting("register", "boolean", "true", "list the workspace for `recover --all`"),
    Setting("remote", "remote", None, "remote that `push` and `fetch` use", "REMOTE"),
    Setting("trust", "remotes", None, "remotes whose saves `recover` takes without being named"),
    Setting("history", "boolean", "true", "keep a thinned series of earlier checkpoints"),
    Setting("historyInterval", "seconds", "30", "least seconds between checkpoints of the history", None, 0, 86_400),
    Setting("keepSaves", "count", "20", "prune keeps the newest N saves", "--keep", 0, 1_000_000),
    Setting("keepDays", "days", "30", "prune keeps saves younger than N days", "--days", 0, 1_000_000),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}

#: The settings that a save reads, and those of `run` and `guard` besides.
OF_SAVE = ("stateFile", "includeIgnored", "conversation", "register", "filterTimeout")
OF_HISTORY = ("history", "historyInterval")
OF_RUN = ("grace", "deadline", "interval", *OF_SAVE)


class Problem(Record):
    """A value that can't be read: which, where it stands and what is wrong with it, and the command that unsets it."""

    name: str
    message: str
    command: str | None


# -- reading


def number(repository: Repository, name: str, given: float | None = None, source: str | None = None) -> float:
    """A number of seconds or days, or a count. `given` wins; it was named by `source` (default: by the option).

    Raises UsageError.
    """
    setting = _BY_NAME[name]
    if given is not None:
        value = _parse_number(setting, str(given))
        if value is None:
            raise _error(_problem(repository, setting, str(given), source or setting.option))
        return value
    value = _parse_number(setting, _checked(repository, setting)[-1])
    assert value is not None
    return value


def boolean(repository: Repository, name: str) -> bool:
    """A boolean, as git understands one. Raises UsageError."""
    return bool(parse_bool(_checked(repository, _BY_NAME[name])[-1]))


def path(repository: Repository, name: str) -> bytes:
    """An absolute path inside the workspace. Raises UsageError."""
    text = _checked(repository, _BY_NAME[name])[-1]
    return os.path.normpath(os.path.join(repository.toplevel, os.fsencode(text)))


def patterns(repository: Repository, name: str) -> list[str]:
    """Every pattern, in the order of the configuration. In the environment each line is one. Raises UsageError."""
    return _checked(repository, _BY_NAME[name])


def remote(repository: Repository, given: str | None) -> str | None:
    """The remote that was `given`, else the one of `gitstate.remote`; None without one. Raises UsageError."""
    setting = _BY_NAME["remote"]
    if given:
        if not _is_readable(repository, setting, given):
            raise _error(_problem(repository, setting, given, "the argument"))
        return given
    found = _checked(repository, setting)
    return found[-1] if found else None


def trusted_remotes(repository: Repository) -> frozenset[str]:
    """The remotes of `gitstate.trust`, as they are named in refs. Raises UsageError."""
    return frozenset(map(remote_name, _checked(repository, _BY_NAME["trust"])))


# -- before anything begins


def require(repository: Repository, *names: str) -> None:
    """Raise UsageError for the first of these settings that can't be read."""
    for name in names:
        _checked(repository, _BY_NAME[name])


def problems(repository: Repository, names: Sequence[str] = tuple(_BY_NAME)) -> list[Problem]:
    """Every one of these settings that can't be read, in their order."""
    found = []
    for name in names:
        setting = _BY_NAME[name]
        texts, source = _find(repository, setting)
        bad = _first_bad(repository, setting, texts)
        if bad is not None:
            found.append(_problem(repository, setting, bad, source))
    return found


def with_defaults(repository: Repository, names: Sequence[str]) -> tuple[Repository, list[Problem]]:
    """`repository` with the default in place of each of these settings that can't be read, and what is wrong.

    For a save that nobody can repeat: it stands, and its result says what was wrong. Of patterns the readable stay.
    """
    found = problems(repository, names)
    if not found:
        return repository, found
    config = dict(repository.config)
    for problem in found:
        setting = _BY_NAME[problem.name]
        texts = [text for text in _find(repository, setting)[0] if _is_readable(repository, setting, text)]
        if not setting.repeats:
            texts = [] if setting.default is None else [setting.default]
        config[_REPLACED + setting.key.lower()] = texts
    return repository._replace(config=config), found


def with_filter_limit(repository: Repository) -> Repository:
    """`repository` with the time that a filter of its configuration may take for one file. Raises UsageError."""
    if not repository.runs_filters or not any(key.startswith("filter.") for key in repository.config):
        return repository
    return repository._replace(filter_limit=number(repository, "filterTimeout"))


def unknown_keys(repository: Repository) -> list[str]:
    """The `gitstate.*` keys of the configuration that are no setting, as git lists them: in lower case."""
    known = {setting.key.lower() for setting in SETTINGS}
    return [key for key in repository.config if key.startswith("gitstate.") and key not in known]


def nearest_key(key: str) -> str | None:
    """The setting that a misspelt key may mean; None where none is near."""
    import difflib

    known = {setting.name.lower(): setting.key for setting in SETTINGS}
    found = difflib.get_close_matches(key.removeprefix("gitstate."), known, 1)
    return known[found[0]] if found else None


# -- for the command line


def setting_named(name: str) -> Setting:
    """The row of the table for `gitstate.<name>`."""
    return _BY_NAME[name]


def help_text(name: str) -> str:
    """The help of the option that has the same effect as a setting: what it does, its key and its default."""
    setting = _BY_NAME[name]
    default = "" if setting.default is None else f", {setting.default}"
    return f"{setting.meaning}  [{setting.key}{default}]"


# -- one parser


def _checked(repository: Repository, setting: Setting) -> list[str]:
    """The values of a setting, or its default. Raises UsageError where one can't be read."""
    texts, source = _find(repository, setting)
    bad = _first_bad(repository, setting, texts)
    if bad is not None:
        raise _error(_problem(repository, setting, bad, source))
    return texts


def _find(repository: Repository, setting: Setting) -> tuple[list[str], str | None]:
    """The values that stand in the one place that counts, and the environment variable if that is the place."""
    key = setting.key.lower()
    texts = repository.config.get(_REPLACED + key)
    if texts is not None:
        return texts, None
    text = os.environ.get(setting.variable)
    if text:
        lines = text.splitlines() if setting.repeats else [text]
        return [line for line in lines if line], setting.variable
    texts = repository.config.get(key)
    if texts is None:
        texts = [] if setting.default is None else [setting.default]
    return texts, None


def _first_bad(repository: Repository, setting: Setting, texts: Sequence[str]) -> str | None:
    """The first value that can't be read. Of several values of one key the last counts, unless all do."""
    counting = texts if setting.repeats else texts[-1:]
    return next((text for text in counting if not _is_readable(repository, setting, text)), None)


def _is_readable(repository: Repository, setting: Setting, text: str) -> bool:
    if setting.kind == "boolean":
        return parse_bool(text) is not None
    if setting.kind == "path":
        if not text or "\0" in text:
            return False
        place = os.path.normpath(os.path.join(repository.toplevel, os.fsencode(text)))
        return is_safe_path(os.path.relpath(place, repository.toplevel))
    if setting.kind == "patterns":
        escapes = len(text) - len(text.rstrip("\\"))
        return 0 < len(text) <= _LONGEST_PATTERN and "\n" not in text and escapes % 2 == 0
    if setting.kind in ("remote", "remotes"):
        return bool(text) and not text.startswith("-")
    return _parse_number(setting, text) is not None


def _parse_number(setting: Setting, text: str) -> float | None:
    """The number; None where it is none, or out of range. Only what other programs write: no `1_000`, no `nan`."""
    try:
        value = float(int(text) if setting.kind == "count" else float(text))
    except (ValueError, OverflowError):
        return None
    if not text.isascii() or "_" in text or not setting.least <= value <= setting.most:
        return None
    return value


# -- one error


def _error(problem: Problem) -> UsageError:
    return UsageError(f"{problem.message}; nothing was changed", hint=problem.command)


def _problem(repository: Repository, setting: Setting, text: str, source: str | None) -> Problem:
    """Say what is wrong with a value. `source` is a variable or an option; None: git is asked which file it is in."""
    from ..system.stdlib import quote
    from ..system.terminal import escape

    command: str | None = None
    if source is None:
        file = _file_of(repository, setting, text)
        where = "git's configuration" if file is None else escape(file)
        command = f"git config{'' if file is None else ' --file ' + quote(file)} --unset-all {setting.key}"
    elif source == setting.variable:
        where = f"{source} in the environment"
        command = f"unset {source}"
    else:
        where = source
    shown = escape(text if len(text) <= 100 else text[:100] + "…")
    return Problem(setting.name, f'{setting.key} is "{shown}" ({where}), not {_expected(setting)}', command)


def _expected(setting: Setting) -> str:
    ends = f"from {setting.least:.6g} to {setting.most:.7g}"
    return {
        "boolean": "true or false",
        "path": "a path inside the workspace",
        "patterns": "a gitignore pattern",
        "remote": "a remote's name or URL",
        "remotes": "a remote's name or URL",
        "count": f"a whole number {ends}",
    }.get(setting.kind, f"a number of {setting.kind} {ends}")


def _file_of(repository: Repository, setting: Setting, text: str) -> str | None:
    """The file of git's configuration that holds this value; of several the last, which counts."""
    try:
        out = repository.git.run("config", "--show-origin", "-z", "--get-all", setting.key, ok_codes=(0, 1))
    except (GitError, OSError):
        return None
    words = out.split(b"\0")[:-1]
    files = [origin for origin, value in zip(words[::2], words[1::2], strict=False) if value == os.fsencode(text)]
    if not files or not files[-1].startswith(b"file:"):
        return None
    return os.fsdecode(os.path.join(repository.toplevel, files[-1].removeprefix(b"file:")))
