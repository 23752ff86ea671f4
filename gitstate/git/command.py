"""Run git, with a scrubbed environment and in bytes; and the object ids that it prints."""

from __future__ import annotations

import os

from ..errors import GitError
from ..system.child import Child
from ..system.files import strange_kind
from ..system.stdlib import TYPE_CHECKING, Record, digest, quote, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")
    R = TypeVar("R")

#: Variables of git that stay: where its parts and the user's configuration are, not which repository to use.
_KEPT = frozenset(
    (
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_EXEC_PATH",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
    )
)

#: A variable of the environment of every git, which is empty: see `switch_off`.
_EMPTY = "GITSTATE_EMPTY"


def switch_off(name: str) -> str:
    """An option for git that makes a setting empty, which is false for a boolean. Its name may contain `=`.

    `-c` takes all after the first `=` for the value, this takes the last one (`man git`).
    """
    return f"--config-env={name}={_EMPTY}"


def hooks_off(config: Iterable[str]) -> tuple[str, ...]:
    """Options for git that switch off the hooks which a configuration with these settings names (`man git-hook`).

    They run from git 2.54 on, whatever `core.hooksPath` is.
    """
    named = (key for key in config if key.startswith("hook.") and key.endswith((".command", ".event")))
    hooks = dict.fromkeys(key.rpartition(".")[0] for key in named if key.count(".") > 1)
    return tuple(switch_off(f"{hook}.enabled") for hook in hooks)


#: The events of hooks that may come of what this program lets git do. From git 2.55 on each can be switched off for all
#: hooks of the configuration, also where nobody has read that yet.
_EVENTS = ("reference-transaction", "post-index-change", "post-checkout", "pre-auto-gc")
_OPTIONS = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"),
    *(word for event in _EVENTS for word in ("-c", f"hook.{event}.enabled=false")),
    *("-c", "core.fsync=reference,loose-object,pack,pack-metadata", "-c", "core.fsyncMethod=fsync"),
    *("-c", "submodule.recurse=false", "-c", "core.warnAmbiguousRefs=false", "-c", "core.untrackedCache=keep"),
    *("-c", "core.filesRefLockTimeout=3000", "-c", "core.packedRefsTimeout=3000", "-c", "reftable.lockTimeout=3000"),
    # Git ends where the file that it names is missing, and lists the changes in another order where it is there.
    *("-c", "diff.orderFile=/dev/null"),
    # Git waits at a FIFO in the place of `mailmap.file`.
    *("-c", "log.mailmap=false"),
)
_NO_GC = ("-c", "gc.auto=0", "-c", "maintenance.auto=false")


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for git: nothing that names a repository, nothing that lets git wait for a person.

    In a hook GIT_DIR and GIT_INDEX_FILE are set, and `git -C other` would read the wrong repository. `env` is added.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT}
    clean.update(
        LC_ALL="C",
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="true",
        SSH_ASKPASS="true",
        GIT_EDITOR=":",
        GIT_OPTIONAL_LOCKS="0",
        GIT_NO_LAZY_FETCH="1",
        GIT_NO_REPLACE_OBJECTS="1",
        GIT_LITERAL_PATHSPECS="1",
        GIT_ADVICE="0",
        GIT_COMMITTER_NAME="gitstate",
        GIT_COMMITTER_EMAIL="gitstate@localhost",
    )
    clean[_EMPTY] = ""
    if not clean.get("HOME"):
        # An empty environment (`env -i`, some schedulers): without HOME git reads no global configuration.
        import pwd

        with suppress(KeyError):
            clean["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    clean.pop("LANGUAGE", None)
    if "GIT_CONFIG_COUNT" in os.environ:
        clean.update(_trust_of(os.environ))
    if not all(map(is_readable, user_files(clean))):
        from .strange import readable_configuration

        clean.update(readable_configuration(user_files(clean)))
    if env:
        clean.update(env)
    return clean


def _trust_of(env: Mapping[str, str]) -> dict[str, str]:
    """The values of safe.directory that the environment `env` gives to git, which is where containers have them.

    No other setting there counts, as none of `git -c` does: it holds for one command, and the saves are for many.
    """
    told = env.get("GIT_CONFIG_COUNT", "")
    count = min(int(told), _MOST_GIVEN) if told.isascii() and told.isdigit() else 0
    given = [(env.get(f"GIT_CONFIG_KEY_{at}", ""), env.get(f"GIT_CONFIG_VALUE_{at}")) for at in range(count)]
    values = [value for key, value in given if key.lower() == "safe.directory" and value is not None]
    trust = {"GIT_CONFIG_COUNT": str(len(values))}
    for at, value in enumerate(values):
        trust |= {f"GIT_CONFIG_KEY_{at}": "safe.directory", f"GIT_CONFIG_VALUE_{at}": value}
    return trust


#: No more settings of the environment are looked at.
_MOST_GIVEN = 1000


def user_files(env: Mapping[str, str]) -> list[bytes]:
    """The files of the user's own configuration, in git's order (`man git-config`, FILES)."""
    if "GIT_CONFIG_GLOBAL" in env:
        return [os.fsencode(env["GIT_CONFIG_GLOBAL"])] if env["GIT_CONFIG_GLOBAL"] else []
    home = os.fsencode(env.get("HOME", ""))
    above = os.fsencode(env.get("XDG_CONFIG_HOME", "")) or (os.path.join(home, b".config") if home else b"")
    found = [os.path.join(above, b"git/config")] if above else []
    return [*found, os.path.join(home, b".gitconfig")] if home else found


#: What was found of each file: its inode, size and time, and whether git can read it.
_looked_at: dict[bytes, tuple[tuple[int, int, int], bool]] = {}


def is_readable(path: bytes) -> bool:
    """Whether git neither waits nor ends at a file of the user's configuration."""
    from .gitdir import included_by

    if strange_kind(path):
        return False
    try:
        info = os.stat(path)
    except OSError:
        return True
    now = info.st_ino, info.st_size, info.st_mtime_ns
    known = _looked_at.get(path)
    if known is None or known[0] != now:
        known = _looked_at[path] = now, not included_by(path)
    return known[1]


class Git(Record):
    """How to run git in one directory."""

    directory: bytes
    options: tuple[str, ...] = ()
    """Global options after those that every call gets."""
    lock_fd: int | None = None
    """A descriptor that every child inherits, and with it the lock (see `locks.lock`); None where there is none."""

    def start(self, *args: str | bytes, env: Mapping[str, str] | None = None, quiet: bool = False) -> Child:
        """Start git with pipes on its streams; `env` is added to the environment, `quiet` is as for `Child`."""
        argv: list[str | bytes] = ["git", "-C", self.directory, *_OPTIONS, *_NO_GC, *self.options, *args]
        return Child(argv, environment(env), quiet=quiet, inherits=self.lock_fd, may_wait_at=self._opened_files)

    def _opened_files(self) -> Iterable[bytes]:
        """The files of the worktree that git opens whatever they are."""
        from .gitdir import read_by_git

        return read_by_git(self.directory)

    def collect_garbage(self, defaults: Mapping[str, str], *options: str) -> None:
        """`git gc --auto`, which goes on in the background. `defaults` are settings that the user has not made.

        Git's own settings decide: with `gc.auto` 0 nothing happens. No descriptor of ours reaches it, and no lock.
        Raises GitError, OSError.
        """
        argv: list[str | bytes] = ["git", "-C", self.directory, *_OPTIONS]
        look, at = [*argv, "config", "--name-only", "--get-regexp", r"^gc\."], self._opened_files
        listed = Child(look, environment(), quiet=True, may_wait_at=at)
        made = listed.communicate()[0].decode("utf-8", "replace").lower().split()
        for name, value in defaults.items():
            argv += [] if name.lower() in made else ["-c", f"{name}={value}"]
        self.finish(Child([*argv, *options, "gc", "--auto", "--quiet"], environment(), may_wait_at=at))

    def run(
        self,
        *args: str | bytes,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        ok_codes: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> bytes:
        """What git prints. Raises GitError for another status than `ok_codes`, or after `timeout` seconds."""
        return self.finish(self.start(*args, env=env), input=input, ok_codes=ok_codes, timeout=timeout)

    def finish(
        self,
        process: Child,
        *,
        input: bytes = b"",
        ok_codes: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> bytes:
        """Give `input` to a process that `start` made, and return what it prints. Raises as `run` does."""
        try:
            out, err = process.communicate(input, timeout=timeout)
        except TimeoutError:
            process.kill_all()
            # Its pipes are not read to their end: a filter that it started may hold them for long.
            process.wait()
            raise GitError(_arguments(process), -9, b"it took too long") from None
        if process.returncode not in ok_codes:
            hint = f"gitstate -C {quote(os.fsdecode(self.directory))} doctor"
            raise GitError(_arguments(process), process.wait(), err, hint=hint)
        return out

    def succeeds(self, *args: str | bytes) -> bool:
        """Whether git ends with status 0 (as for `merge-base --is-ancestor`). Raises GitError for all but 0 and 1."""
        process = self.start(*args)
        self.finish(process, ok_codes=(0, 1))
        return process.returncode == 0


def try_in_halves(items: Sequence[T], work: Callable[[Sequence[T]], R | None]) -> list[tuple[Sequence[T], R | None]]:
    """What `work` returns for `items`, in portions as large as it can do.

    Git ends at one item that it can't take. `work` then returns None, and each half of the items is tried alone.
    Returns the portions in their order, each with its result; only a portion of a single item has None.
    """
    if not items:
        return []
    result = work(items)
    if result is not None or len(items) == 1:
        return [(items, result)]
    middle = len(items) // 2
    return [*try_in_halves(items[:middle], work), *try_in_halves(items[middle:], work)]


def split_nul(out: bytes) -> list[bytes]:
    """The items of an output in which each ends in a NUL."""
    return out.split(b"\0")[:-1]


def _arguments(process: Child) -> list[str]:
    return [os.fsdecode(argument) for argument in process.argv[3:]]


Oid = str
"""An object id in lower-case hex: 40 digits in a sha1 repository, 64 in a sha256 one."""
_HEX = frozenset("0123456789abcdef")


def is_oid(value: object) -> bool:
    """Whether a value is a full object id in lower-case hex."""
    return isinstance(value, str) and len(value) in (40, 64) and _HEX.issuperset(value)


def object_id(object_format: str, kind: str, data: bytes) -> Oid:
    """The id that git gives to these bytes."""
    whole = digest(object_format, b"%s %d\0" % (kind.encode("ascii"), len(data)), len(data))
    whole.update(data)
    return whole.hexdigest()
