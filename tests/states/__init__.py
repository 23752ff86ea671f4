"""Nasty states: named ways in which a workspace can look when a crash comes, each with what must survive.

A builder is a small function on a fresh repository with a few commits, on branch ``agent/work``. It ends by asking git
whether the state really is what its name says (``ws.expect…``). What a builder stores in the ``Workspace`` beyond files
(environment, umask, canaries, locks) is for the run of gitstate that follows.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

Text = str | bytes
Pathish = str | bytes | Path


def to_bytes(value: Pathish) -> bytes:
    return os.fsencode(value)


def lines(count: int = 20, **changed: str) -> str:
    """A text of numbered lines; ``lines(l5="other")`` has another fifth line."""
    return "".join(changed.get(f"l{number}", f"line {number}") + "\n" for number in range(1, count + 1))


class Loss(Enum):
    """What happens to the workspace between save and recover."""

    IN_PLACE = "in_place"  # nothing: the process died, the files are there
    WIPED = "wiped"  # git reset --hard, git clean -ffdx
    STRIPPED = "stripped"  # the same, and every file of an unfinished operation is gone as well
    REMOVED = "removed"  # the worktree's directory is gone
    CLONED = "cloned"  # the host is lost; a clone that fetched gitstate's refs is all there is
    PLAIN = "plain"  # no gitstate any more, only git: the two resets


EVERYWHERE = frozenset({Loss.IN_PLACE, Loss.WIPED, Loss.REMOVED, Loss.CLONED, Loss.PLAIN})
LOCAL = EVERYWHERE - {Loss.CLONED}  # leans on the repository's own config, which no clone has
HERE = frozenset({Loss.IN_PLACE, Loss.WIPED})
#: What a run without the slow tests tries on each state; the other combinations are marked slow.
QUICK = HERE

# --------------------------------------------------------------------------------------------------------------------
# The workspace
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of the command line."""

    exit_status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"no JSON on stdout, exit {self.exit_status}: {self}") from None
        assert isinstance(document, dict)
        return document

    def __str__(self) -> str:
        return f"exit {self.exit_status}\nstdout: {self.stdout.decode('utf-8', 'replace')}\nstderr: {self.stderr}"


def git_environment() -> dict[str, str]:
    """For git as the tests use it: no editor ever opens, nothing asks."""
    quiet = {"GIT_EDITOR": ":", "GIT_SEQUENCE_EDITOR": ":", "GIT_TERMINAL_PROMPT": "0"}
    return dict(os.environ) | quiet


def run_git(
    where: Path, *args: Pathish, check: bool = True, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> bytes:
    """Run git without hooks and file system monitors, so that only gitstate could be the one who started them."""
    command = [b"git", b"-C", bytes(where), b"-c", b"core.fsmonitor=false", b"-c", b"core.hooksPath=/dev/null"]
    done = subprocess.run(
        [*command, *map(to_bytes, args)],
        input=stdin,
        capture_output=True,
        env=git_environment() | dict(env or {}),
        timeout=300,
    )
    if check and done.returncode:
        raise AssertionError(f"{args!r} exited {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout


class Workspace:
    """A worktree in which an agent works, with short names for what builders do to it."""

    def __init__(self, path: Path, outside: Path, *, main: Path | None = None) -> None:
        self.path = path
        self.outside = outside  # a directory for helpers that are no part of the repository
        self.main = main  # the main repository, where this is a linked worktree
        self.cli_path: Path | None = None  # where gitstate is pointed at, if not at ``path``
        self.cli_env: dict[str, str] = {}  # what leaked into gitstate's environment
        self.cli_umask = 0o022
        self.cli_prefix: tuple[str, ...] = ()  # what starts it
        self.without_override = False  # run gitstate without root's right to read everything
        self.canaries: list[Path] = []  # files that must never come into being
        self.bystanders: list[Path] = []  # repositories that must not change
        self.held_locks: list[Path] = []  # released before anything else happens
        self.stale_locks: list[Path] = []  # nobody's; in the way of whoever wipes the workspace

    # -- git

    def git(
        self, *args: Pathish, check: bool = True, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> bytes:
        return run_git(self.path, *args, check=check, env=env, stdin=stdin)

    def out(self, *args: Pathish) -> str:
        return self.git(*args).decode("utf-8").strip()

    def config(self, name: str, value: str | Path) -> None:
        self.git("config", name, str(value))

    def commit(self, message: str = "more") -> str:
        """Commit everything that is there, hooks aside."""
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "--no-gpg-sign", "-m", message)
        return self.out("rev-parse", "HEAD")

    def fails(self, *args: Pathish, env: Mapping[str, str] | None = None) -> None:
        """Run a git command that is meant to stop half-way."""
        try:
            self.git(*args, env=env)
        except AssertionError:
            return
        raise AssertionError(f"{args!r} was meant to fail")

    @property
    def git_dir(self) -> Path:
        return Path(os.fsdecode(self.git("rev-parse", "--absolute-git-dir")[:-1]))

    @property
    def common_dir(self) -> Path:
        return Path(os.fsdecode(self.git("rev-parse", "--path-format=absolute", "--git-common-dir")[:-1]))

    def refs(self, *prefixes: str) -> dict[str, str]:
        listed = os.fsdecode(self.git("for-each-ref", "--format=%(refname) %(objectname)", *prefixes))
        return {line.rsplit(" ", 1)[0]: line.rsplit(" ", 1)[1] for line in listed.splitlines()}

    def status(self) -> set[bytes]:
        """``git status --porcelain``, one record each, without writing the index."""
        options = ("--porcelain", "-z", "--untracked-files=all", "--ignore-submodules=none")
        records = self.git("status", *options, env={"GIT_OPTIONAL_LOCKS": "0"}).split(b"\0")[:-1]
        found: set[bytes] = set()
        while records:
            record = records.pop(0)
            found.add(record + b" <- " + records.pop(0) if b"R" in record[:2] or b"C" in record[:2] else record)
        return found

    # -- files

    def at(self, path: Pathish) -> bytes:
        return os.path.join(bytes(self.path), to_bytes(path))

    def write(self, path: Pathish, data: Text = "text\n", mode: int | None = None) -> None:
        where = self.at(path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with open(where, "wb") as file:
            file.write(to_bytes(data))
        if mode is not None:
            os.chmod(where, mode)

    def read(self, path: Pathish) -> bytes:
        with open(self.at(path), "rb") as file:
            return file.read()

    def append(self, path: Pathish, data: Text = "one more line\n") -> None:
        with open(self.at(path), "ab") as file:
            file.write(to_bytes(data))

    def mkdir(self, path: Pathish, mode: int | None = None) -> None:
        os.makedirs(self.at(path), exist_ok=True)
        if mode is not None:
            os.chmod(self.at(path), mode)

    def symlink(self, target: Text, path: Pathish) -> None:
        where = self.at(path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if os.path.lexists(where):
            os.unlink(where)
        os.symlink(to_bytes(target), where)

    def remove(self, path: Pathish) -> None:
        where = self.at(path)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            os.unlink(where)

    def chmod(self, path: Pathish, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def add(self, *paths: Pathish) -> None:
        self.git("--literal-pathspecs", "add", "-f", "--", *paths)

    def script(self, name: str, body: str) -> Path:
        """An executable shell script outside of the repository."""
        file = self.outside / name
        file.write_text("#!/bin/sh\n" + body)
        file.chmod(0o755)
        return file

    def canary(self, name: str, status: int = 1) -> Path:
        """A program that nobody may run; whoever does leaves a trace."""
        trace = self.outside / f"canary-{name}"
        self.canaries.append(trace)
        return self.script(f"{name}.sh", f'echo "$0 $*" >>{shlex.quote(str(trace))}\nexit {status}\n')

    # -- claims

    def expect(self, *records: Text) -> None:
        """These records are among those of ``git status --porcelain``."""
        found = self.status()
        missing = {to_bytes(record) for record in records} - found
        assert not missing, f"status lacks {sorted(missing)}; it says {sorted(found)}"

    def expect_exactly(self, *records: Text) -> None:
        assert self.status() == {to_bytes(record) for record in records}, sorted(self.status())

    def expect_operation(self, *names: str) -> None:
        for name in names:
            assert (self.git_dir / name).exists(), f"no {name} in {sorted(os.listdir(self.git_dir))}"

    def expect_flags(self, letter: str, *paths: Pathish) -> None:
        """``git ls-files -v`` marks these paths with this letter."""
        found = set(self.git("ls-files", "-v", "-z").split(b"\0"))
        for path in paths:
            assert to_bytes(letter) + b" " + to_bytes(path) in found, sorted(found)

    # -- gitstate

    def gitstate(self, *args: str, path: Path | None = None) -> Run:
        """Run the command line on this workspace, from another directory, with whatever has leaked."""
        where = path or self.cli_path or self.path
        done = subprocess.run(
            [*self.cli_prefix, sys.executable, "-m", "gitstate", "-C", os.fspath(where), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.outside,
            env=dict(os.environ) | self.cli_env,
            umask=self.cli_umask,
            timeout=180,
            preexec_fn=drop_override if self.without_override else None,
        )
        return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    @contextlib.contextmanager
    def in_another_boot(self) -> Iterator[None]:
        """What `gitstate` runs sees another boot's id. Needs root, and a mount namespace for each run."""
        other = self.outside / "boot_id"
        other.write_text("00000000-1111-2222-3333-444444444444\n")
        script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id || exit 97; exec "$@"'
        self.cli_prefix = ("unshare", "-m", "sh", "-c", script, os.fspath(other))
        try:
            yield
        finally:
            self.cli_prefix = ()

    def save(self, *args: str, task_id: str = "T-1") -> Run:
        context = ("--task-id", task_id, "--issue-number", "7", "--progress-stage", "coding")
        return self.gitstate("save", *context, *args, "--json")

    def recover(self, *args: str, path: Path | None = None) -> Run:
        return self.gitstate("recover", *args, "--json", path=path)


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def initialized(tmp_path: Path) -> Workspace:
    """A repository without a commit, and a directory outside of it."""
    path, outside = tmp_path / "repo", tmp_path / "outside"
    path.mkdir()
    outside.mkdir()
    ws = Workspace(path, outside)
    ws.git("init", "-q", "-b", "main", ".")
    return ws


def three_files(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    ws = initialized(tmp_path)
    for name in ("a", "b", "d/x"):
        ws.write(name, name[-1] + "0\n")
    ws.commit("base")
    return ws


def drop_override() -> None:
    """Between fork and exec: the program that follows obeys permissions even as root."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if os.geteuid() == 0 and _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_CAPBSET_DROP)")


def why_permissions_cannot_be_tested() -> str | None:
    """None where a program without the right to override permissions can be started, else the reason."""
    try:
        subprocess.run(["true"], preexec_fn=drop_override, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"root reads everything here and cannot give that up: {error}"
    return None


# --------------------------------------------------------------------------------------------------------------------
# Fresh repositories
# --------------------------------------------------------------------------------------------------------------------


class Templates:
    """Repositories with a few commits, by kind: ``sha1``, ``sha256``, ``empty`` (no commit at all)."""

    def __init__(self, top: Path, environment: Mapping[str, str]) -> None:
        self._top = top
        self._environment = dict(environment)

    def copy(self, kind: str, to: Path) -> None:
        template = self._top / kind
        if not template.exists():
            before = dict(os.environ)
            os.environ.clear()
            os.environ.update(self._environment)
            try:
                _build_template(template, kind)
            finally:
                os.environ.clear()
                os.environ.update(before)
        shutil.copytree(template, to, symlinks=True)
        run_git(to, "update-index", "-q", "--refresh")


def _build_template(path: Path, kind: str) -> None:
    path.mkdir(parents=True)
    ws = Workspace(path, path.parent)
    if kind == "empty":
        ws.git("init", "-q", "-b", "agent/work", ".")
        _forget_sample_hooks(path)
        return
    ws.git("init", "-q", f"--object-format={kind}", "-b", "base", ".")
    _forget_sample_hooks(path)
    ws.write(".gitignore", "*.log\n/build/\n")
    for name in ("README.md", "a.txt", "b.txt", "c.txt", "d.txt", "gone.txt", "docs/guide.md"):
        ws.write(name, f"{name}\n" + lines())
    ws.write("moved.txt", "moved\n" + lines(l7="moved", l9="moved too"))
    ws.write("src/app.py", "print('hello')\n")
    ws.write("src/lib/util.py", "def util():\n    return 1\n")
    ws.write("src/lib/deep/x.txt", lines(3))
    ws.write("bin/run.sh", "#!/bin/sh\necho run\n", 0o755)
    ws.write("data.bin", bytes(range(256)) * 4)
    ws.write("empty.txt", "")
    ws.symlink("a.txt", "link")
    ws.commit("base")

    def branch(name: str, change: Callable[[], object]) -> None:
        ws.git("checkout", "-q", "-b", name, "base")
        change()
        ws.commit(name)

    branch("side-content", lambda: ws.write("a.txt", "a.txt\n" + lines(l5="theirs")))
    branch("side-deletes", lambda: ws.remove("b.txt"))
    branch("side-modifies", lambda: ws.append("gone.txt"))
    branch("side-adds", lambda: ws.write("added.txt", "their\ntext\n"))
    branch("side-binary", lambda: ws.write("data.bin", b"\0theirs" * 100))
    branch("side-directory", lambda: ws.write("thing/inner.txt"))
    branch("side-renames", lambda: ws.git("mv", "moved.txt", "theirs.txt"))
    branch("side-links", lambda: ws.symlink("c.txt", "link"))
    branch("calm", lambda: ws.write("calm.txt"))
    branch("calm2", lambda: ws.write("calm2.txt"))
    branch("seq", lambda: ws.write("seq1.txt"))
    ws.write("a.txt", "a.txt\n" + lines(l5="from the sequence"))
    ws.commit("seq 2")
    ws.write("seq3.txt")
    ws.commit("seq 3")
    ws.git("checkout", "-q", "-b", "main", "base")
    ws.append("README.md")
    ws.commit("main")
    ws.git("checkout", "-q", "-b", "agent/work", "base")
    ws.write("a.txt", "a.txt\n" + lines(l5="ours"))
    ws.symlink("b.txt", "link")
    ws.commit("work 1")
    ws.append("b.txt")
    ws.remove("gone.txt")
    ws.git("mv", "moved.txt", "ours.txt")
    ws.commit("work 2")
    ws.write("added.txt", "our\ntext\n")
    ws.write("data.bin", b"\0ours" * 100)
    ws.write("thing", "a file\n")
    ws.commit("work 3")
    ws.git("repack", "-q", "-a", "-d")


def _forget_sample_hooks(path: Path) -> None:
    for sample in (path / ".git" / "hooks").glob("*.sample"):
        sample.unlink()


# --------------------------------------------------------------------------------------------------------------------
# The registry
# --------------------------------------------------------------------------------------------------------------------

Builder = Callable[[Workspace], None]


@dataclass(frozen=True)
class State:
    name: str
    build: Builder
    #: What this state must survive exactly, but for what is listed as left out.
    losses: frozenset[Loss] = EVERYWHERE
    #: Losses that a quick run tries as well.
    quick: frozenset[Loss] = QUICK
    #: Whether a save moves the branch; None where either is right.
    moves: bool | None = True
    #: Paths that cannot be saved and must be listed as left out (they, or a directory above them).
    left_out: frozenset[bytes] = frozenset()
    #: Paths that may be listed as left out; where they are not, they must survive.
    may_leave_out: frozenset[bytes] = frozenset()
    save_exits: frozenset[int] = frozenset({0})
    recover_exits: frozenset[int] = frozenset({0})
    template: str = "sha1"
    #: The name of the workspace's directory.
    directory: str = "repo"
    #: Also tried in a linked worktree.
    linked: bool = False
    #: ``git status`` may not be empty after a save that moved the branch, or cannot be asked without running a filter.
    status_says_more: bool = False
    slow: bool = False
    why_not: Callable[[], str | None] = lambda: None


STATES: dict[str, State] = {}


def state(**metadata: Any) -> Callable[[Builder], Builder]:
    """Register a builder under its function's name."""
    for name in ("left_out", "may_leave_out"):
        if name in metadata:
            metadata[name] = frozenset(to_bytes(path) for path in metadata[name])
    for name in ("save_exits", "recover_exits", "losses", "quick"):
        if name in metadata:
            metadata[name] = frozenset(metadata[name])

    def register(build: Builder) -> Builder:
        name = build.__name__
        assert name not in STATES, name
        STATES[name] = State(name=name, build=build, **metadata)
        return build

    return register


def operation(**metadata: Any) -> Callable[[Builder], Builder]:
    """Register a state with an unfinished operation: no branch moves, and the operation's files may be gone too."""
    losses = {Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}
    return state(**{"moves": False, "losses": losses, "quick": HERE | {Loss.STRIPPED}} | metadata)


def make(kind: State, templates: Templates, top: Path, *, linked: bool = False) -> Workspace:
    """A fresh workspace in the given state."""
    outside = top / "outside"
    outside.mkdir()
    path = top / kind.directory
    if linked:
        main = top / "main"
        templates.copy(kind.template, main)
        run_git(main, "checkout", "-q", "main")
        run_git(main, "worktree", "add", "-q", "--", path, "agent/work")
        ws = Workspace(path, outside, main=main)
    else:
        templates.copy(kind.template, path)
        ws = Workspace(path, outside)
    kind.build(ws)
    return ws


# --------------------------------------------------------------------------------------------------------------------
# Ordinary work
# --------------------------------------------------------------------------------------------------------------------


@state(losses=EVERYWHERE - {Loss.PLAIN}, moves=None, linked=True)
def clean(ws: Workspace) -> None:
    ws.expect_exactly()


@state(quick=EVERYWHERE)
def edited(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.append("src/lib/util.py", "# more\n")
    ws.expect_exactly(" M a.txt", " M src/lib/util.py")


@state(quick=EVERYWHERE)
def staged(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("src/new.py", "new\n")
    ws.add("a.txt", "src/new.py")
    ws.expect_exactly("M  a.txt", "A  src/new.py")


@state()
def staged_empty(ws: Workspace) -> None:
    """The first of what is staged has no bytes."""
    ws.write("0", "")
    ws.add("0")
    ws.expect_exactly("A  0")


@state(quick=EVERYWHERE)
def staged_then_edited(ws: Workspace) -> None:
    ws.append("a.txt", "staged\n")
    ws.write("new.txt", "staged\n")
    ws.add("a.txt", "new.txt")
    ws.append("a.txt", "not staged\n")
    ws.append("new.txt", "not staged\n")
    ws.expect_exactly("MM a.txt", "AM new.txt")


@state()
def staged_then_undone_on_disk(ws: Workspace) -> None:
    before = ws.read("a.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("a.txt", before)
    ws.expect_exactly("MM a.txt")
    assert not ws.git("diff", "HEAD", "--name-only")


@state()
def deleted(ws: Workspace) -> None:
    ws.remove("a.txt")
    ws.remove("src/lib")
    ws.expect_exactly(" D a.txt", " D src/lib/util.py", " D src/lib/deep/x.txt")


@state()
def staged_deleted(ws: Workspace) -> None:
    ws.git("rm", "-q", "a.txt", "src/lib/deep/x.txt")
    ws.expect_exactly("D  a.txt", "D  src/lib/deep/x.txt")


@state()
def staged_deleted_kept_on_disk(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "a.txt", "b.txt")
    ws.append("b.txt")
    ws.expect_exactly("D  a.txt", "D  b.txt", "?? a.txt", "?? b.txt")


@state()
def everything_deleted(ws: Workspace) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    assert all(record.startswith(b" D ") for record in ws.status())


@state()
def index_emptied(ws: Workspace) -> None:
    ws.git("rm", "-r", "-q", "--cached", ".")
    ws.expect("D  a.txt", "?? a.txt", "D  src/app.py", "?? src/app.py")


@state(losses=HERE)
def index_missing(ws: Workspace) -> None:
    (ws.git_dir / "index").unlink()
    ws.expect("D  a.txt", "?? a.txt")


@state(quick=EVERYWHERE)
def renamed(ws: Workspace) -> None:
    ws.git("mv", "a.txt", "staged-rename.txt")
    ws.git("mv", "docs/guide.md", "staged-and-edited.md")
    ws.append("staged-and-edited.md")
    os.rename(ws.at("b.txt"), ws.at("unstaged-rename.txt"))
    ws.expect_exactly(
        "R  staged-rename.txt <- a.txt",
        "RM staged-and-edited.md <- docs/guide.md",
        " D b.txt",
        "?? unstaged-rename.txt",
    )


@state()
def renamed_in_a_circle(ws: Workspace) -> None:
    first, second = ws.read("a.txt"), ws.read("b.txt")
    ws.write("a.txt", second)
    ws.write("b.txt", first)
    ws.add("a.txt")
    ws.expect_exactly("M  a.txt", " M b.txt")


@state()
def staged_new_then_deleted(ws: Workspace) -> None:
    ws.write("new.txt")
    ws.write("fresh/new.txt")
    ws.add("new.txt", "fresh/new.txt")
    ws.remove("new.txt")
    ws.remove("fresh")
    ws.expect_exactly("AD new.txt", "AD fresh/new.txt")


@state()
def executable_bits(ws: Workspace) -> None:
    ws.chmod("a.txt", 0o755)
    ws.add("a.txt")
    ws.chmod("b.txt", 0o755)
    ws.chmod("bin/run.sh", 0o644)
    ws.chmod("c.txt", 0o755)
    ws.add("c.txt")
    ws.chmod("c.txt", 0o644)
    ws.git("update-index", "--chmod=+x", "d.txt")
    ws.expect_exactly("M  a.txt", " M b.txt", " M bin/run.sh", "MM c.txt", "MM d.txt")


def _modes(ws: Workspace, mode: int) -> None:
    """The mode on a file that changed, one that is staged, one that is untracked, and one that did not change."""
    ws.append("a.txt")
    ws.append("b.txt")
    ws.add("b.txt")
    ws.write("untracked.txt")
    ws.write("fresh/untracked.txt")
    for path in ("a.txt", "b.txt", "untracked.txt", "fresh/untracked.txt", "c.txt"):
        ws.chmod(path, mode)
    ws.expect(" M a.txt" if not mode & 0o100 else " M c.txt", "?? untracked.txt")


@state(quick=EVERYWHERE)
def mode_0600(ws: Workspace) -> None:
    _modes(ws, 0o600)


@state()
def mode_0700(ws: Workspace) -> None:
    _modes(ws, 0o700)


@state()
def mode_0444(ws: Workspace) -> None:
    _modes(ws, 0o444)


@state()
def mode_0664(ws: Workspace) -> None:
    _modes(ws, 0o664)


@state()
def mode_0666_and_0777(ws: Workspace) -> None:
    _modes(ws, 0o666)
    ws.write("script.sh", "#!/bin/sh\n", 0o777)


@state(losses=HERE | {Loss.REMOVED}, moves=None)
def modes_are_all_that_changed(ws: Workspace) -> None:
    ws.chmod("a.txt", 0o600)
    ws.chmod("bin/run.sh", 0o700)
    ws.expect_exactly()


@state(quick=EVERYWHERE)
def untracked(ws: Workspace) -> None:
    ws.write("untracked.txt")
    ws.write("untracked.sh", "#!/bin/sh\n", 0o755)
    ws.write("fresh/deep/er/file.txt")
    ws.write("src/lib/beside.py")
    ws.expect_exactly("?? untracked.txt", "?? untracked.sh", "?? fresh/deep/er/file.txt", "?? src/lib/beside.py")


@state()
def untracked_with_nested_gitignore(ws: Workspace) -> None:
    ws.write("fresh/.gitignore", "*.tmp\n/cache/\n!keep.log\n")
    ws.write("fresh/file.txt")
    ws.write("fresh/keep.log")
    ws.write("fresh/drop.log")
    ws.write("fresh/x.tmp")
    ws.write("fresh/cache/big.txt")
    ws.expect_exactly("?? fresh/.gitignore", "?? fresh/file.txt", "?? fresh/keep.log")


@state(moves=None)
def untracked_directory_that_ignores_itself(ws: Workspace) -> None:
    ws.write(".venv/.gitignore", "*\n")
    ws.write(".venv/lib/x.py")
    ws.write("fresh.txt")
    ws.expect_exactly("?? fresh.txt")


@state(losses=EVERYWHERE - {Loss.PLAIN}, moves=None)
def empty_directories(ws: Workspace) -> None:
    ws.mkdir("hollow")
    ws.mkdir("hollower/a/b")
    ws.mkdir("src/lib/hollow")
    ws.mkdir("private", 0o700)
    ws.expect_exactly()


@state()
def empty_directories_beside_work(ws: Workspace) -> None:
    ws.write("fresh/file.txt")
    ws.mkdir("fresh/hollow/a")
    ws.mkdir("fresh/private", 0o700)
    ws.mkdir("docs/hollow")
    ws.remove("src/lib/util.py")
    ws.remove("src/lib/deep/x.txt")  # src/lib/deep stays, empty
    ws.expect_exactly("?? fresh/file.txt", " D src/lib/util.py", " D src/lib/deep/x.txt")


@state()
def directory_modes(ws: Workspace) -> None:
    ws.write("secrets/key.txt", "key\n", 0o600)
    ws.chmod("secrets", 0o700)
    ws.write("shared/file.txt")
    ws.chmod("shared", 0o775)
    ws.expect_exactly("?? secrets/key.txt", "?? shared/file.txt")


@state(losses=HERE | {Loss.REMOVED})
def directory_mode_of_tracked_files(ws: Workspace) -> None:
    ws.append("docs/guide.md")
    ws.chmod("docs", 0o700)
    ws.chmod("src/lib", 0o750)
    ws.expect_exactly(" M docs/guide.md")


@state()
def read_only_directory(ws: Workspace) -> None:
    ws.write("fresh/file.txt")
    ws.mkdir("fresh/hollow", 0o555)
    ws.chmod("fresh", 0o555)
    ws.expect_exactly("?? fresh/file.txt")


def dirty(ws: Workspace) -> None:
    """A bit of everything; what it looks like to ``git status`` stands in ``DIRTY``."""
    ws.append("a.txt", "staged\n")
    ws.write("new.txt", "new\n")
    ws.add("a.txt", "new.txt")
    ws.append("a.txt", "not staged\n")
    ws.append("b.txt")
    ws.remove("c.txt")
    ws.git("rm", "-q", "d.txt")
    ws.git("mv", "docs/guide.md", "docs/manual.md")
    ws.chmod("bin/run.sh", 0o644)
    ws.symlink("README.md", "link")
    ws.write("notes/todo.txt")
    ws.write("notes/secret.txt", "secret\n", 0o600)
    ws.mkdir("hollow/inner")


DIRTY = (
    "MM a.txt",
    "A  new.txt",
    " M b.txt",
    " D c.txt",
    "D  d.txt",
    "R  docs/manual.md <- docs/guide.md",
    " M bin/run.sh",
    " M link",
    "?? notes/todo.txt",
    "?? notes/secret.txt",
)


@state(quick=EVERYWHERE, linked=True)
def everything_at_once(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=HERE)
def same_size_edit_in_the_same_instant(ws: Workspace) -> None:
    """Racy git: nothing but the content tells that this file was changed after it was staged."""
    ws.config("core.trustctime", "false")
    ws.write("a.txt", "staged\n")
    ws.add("a.txt")
    staged_at = os.stat(ws.at("a.txt")).st_mtime_ns
    with open(ws.at("a.txt"), "r+b") as file:
        file.write(b"edited")
    os.utime(ws.at("a.txt"), ns=(staged_at, staged_at))
    os.utime(ws.git_dir / "index", ns=(staged_at, staged_at))
    ws.expect_exactly("MM a.txt")


@state(losses=HERE | {Loss.REMOVED})
def times_in_the_future_and_the_past(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("future.txt")
    ws.write("past.txt")
    os.utime(ws.at("a.txt"), (4_000_000_000, 4_000_000_000))
    os.utime(ws.at("future.txt"), (4_100_000_000, 4_100_000_000))
    os.utime(ws.at("past.txt"), (0, 0))
    ws.expect_exactly(" M a.txt", "?? future.txt", "?? past.txt")


@state()
def hard_links(ws: Workspace) -> None:
    os.link(ws.at("a.txt"), ws.at("linked.txt"))
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt", "?? linked.txt")


# --------------------------------------------------------------------------------------------------------------------
# Unfinished operations
# --------------------------------------------------------------------------------------------------------------------


def stop_merging(ws: Workspace, branch: str, *records: str) -> None:
    ws.fails("merge", "-q", branch)
    ws.expect_operation("MERGE_HEAD", "MERGE_MSG")
    ws.expect(*records)


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}, linked=True)
def merge_conflict(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")


@operation()
def merge_conflict_they_deleted(ws: Workspace) -> None:
    stop_merging(ws, "side-deletes", "UD b.txt")


@operation()
def merge_conflict_we_deleted(ws: Workspace) -> None:
    stop_merging(ws, "side-modifies", "DU gone.txt")


@operation()
def merge_conflict_both_added(ws: Workspace) -> None:
    stop_merging(ws, "side-adds", "AA added.txt")


@operation()
def merge_conflict_binary(ws: Workspace) -> None:
    stop_merging(ws, "side-binary", "UU data.bin")


@operation()
def merge_conflict_file_and_directory(ws: Workspace) -> None:
    stop_merging(ws, "side-directory", "A  thing/inner.txt", "AU thing~HEAD")


@operation()
def merge_conflict_both_renamed(ws: Workspace) -> None:
    stop_merging(ws, "side-renames", "DD moved.txt", "AU ours.txt", "UA theirs.txt")


@operation()
def merge_conflict_symlinks(ws: Workspace) -> None:
    stop_merging(ws, "side-links", "UU link")


@operation(linked=True)
def merge_conflict_partly_resolved(ws: Workspace) -> None:
    ws.git("checkout", "-q", "side-content")
    for branch in ("side-deletes", "side-adds", "side-binary"):
        ws.git("cherry-pick", "--no-gpg-sign", branch)
    ws.git("branch", "-q", "-f", "side-all")
    ws.git("checkout", "-q", "agent/work")
    stop_merging(ws, "side-all", "UU a.txt", "UD b.txt", "AA added.txt", "UU data.bin")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.append("a.txt", "and edited again\n")
    ws.write("added.txt", "resolved but not staged\n")
    ws.write("b.txt", "half way\n")
    ws.append("c.txt")
    ws.write("untracked.txt")
    ws.write("staged.txt")
    ws.add("staged.txt")
    ws.expect("MM a.txt", "AA added.txt", "UD b.txt", " M c.txt", "?? untracked.txt", "A  staged.txt")


@operation()
def merge_conflict_deleted_on_disk(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.remove("a.txt")
    ws.expect("UU a.txt")


@operation()
def merge_conflict_diff3_style(ws: Workspace) -> None:
    ws.config("merge.conflictStyle", "diff3")
    stop_merging(ws, "side-content", "UU a.txt")
    assert b"|||||||" in ws.read("a.txt")


@operation(linked=True)
def merge_resolved_not_committed(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.expect_exactly("M  a.txt")


@operation()
def merge_without_commit(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-ff", "--no-commit", "calm")
    ws.append("calm.txt")
    ws.expect_operation("MERGE_HEAD", "MERGE_MODE")
    ws.expect_exactly("AM calm.txt")


@operation()
def merge_octopus_without_commit(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-commit", "calm", "calm2")
    assert len((ws.git_dir / "MERGE_HEAD").read_text().splitlines()) == 2
    ws.expect_exactly("A  calm.txt", "A  calm2.txt")


@operation()
def merge_message_edited(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    (ws.git_dir / "MERGE_MSG").write_text("My own words, \u00fcber alles\n\nand why.\n")


@operation(moves=None)
def merge_squashed(ws: Workspace) -> None:
    ws.git("merge", "-q", "--squash", "calm")
    ws.expect_operation("SQUASH_MSG")
    ws.expect_exactly("A  calm.txt")


@operation(moves=None)
def merge_squashed_with_conflict(ws: Workspace) -> None:
    ws.fails("merge", "-q", "--squash", "side-content")
    ws.expect_operation("SQUASH_MSG")
    ws.expect("UU a.txt")


@operation()
def merge_of_a_commit_without_branch(ws: Workspace) -> None:
    """What is merged is reachable from nowhere else."""
    ws.git("checkout", "-q", "--detach", "side-content")
    ws.write("only-here.txt")
    lonely = ws.commit("lonely")
    ws.git("checkout", "-q", "agent/work")
    ws.git("reflog", "expire", "--expire=now", "--all")
    stop_merging(ws, lonely, "UU a.txt", "A  only-here.txt")


@operation()
def merge_with_autostash(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    ws.fails("merge", "-q", "--autostash", "side-content")
    ws.expect_operation("MERGE_HEAD")
    ws.expect("UU a.txt")


def stop_rebasing(ws: Workspace, *args: str, directory: str = "rebase-merge", editor: str = ":") -> None:
    ws.fails("rebase", "-q", *args, env={"GIT_SEQUENCE_EDITOR": editor})
    ws.expect_operation(directory)


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}, linked=True)
def rebase_conflict(ws: Workspace) -> None:
    stop_rebasing(ws, "--merge", "side-content")
    ws.expect_operation("REBASE_HEAD")
    ws.expect("UU a.txt")
    assert (ws.git_dir / "HEAD").read_text()[:4] != "ref:"


@operation(linked=True)
def rebase_conflict_apply_backend(ws: Workspace) -> None:
    stop_rebasing(ws, "--apply", "side-content", directory="rebase-apply")
    ws.expect("UU a.txt")


@operation()
def rebase_stopped_at_edit(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.expect_operation("rebase-merge/amend", "rebase-merge/interactive")
    ws.append("c.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("untracked.txt")
    ws.expect_exactly(" M c.txt", "M  a.txt", "?? untracked.txt")


@operation()
def rebase_stopped_at_edit_clean(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.expect_operation("rebase-merge/amend")
    ws.expect_exactly()


@operation()
def rebase_stopped_at_failing_exec(ws: Workspace) -> None:
    stop_rebasing(ws, "--exec", "false", "base")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation()
def rebase_stopped_at_squash(ws: Workspace) -> None:
    stop_rebasing(ws, "-i", "side-content", editor="sed -i '2s/^pick/squash/;1s/^pick/edit/'")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("commit", "-q", "--no-edit")
    ws.write("untracked.txt")
    ws.expect_operation("rebase-merge/git-rebase-todo")


@operation(quick=HERE | {Loss.STRIPPED, Loss.REMOVED, Loss.CLONED})
def rebase_with_autostash(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    stop_rebasing(ws, "--autostash", "side-content")
    ws.expect_operation("rebase-merge/autostash")
    ws.expect("UU a.txt")
    assert not ws.refs("refs/stash")


@operation()
def rebase_with_autostash_apply_backend(ws: Workspace) -> None:
    ws.append("c.txt", "put aside\n")
    stop_rebasing(ws, "--apply", "--autostash", "side-content", directory="rebase-apply")
    ws.expect_operation("rebase-apply/autostash")


@operation(linked=True)
def rebase_of_merges(ws: Workspace) -> None:
    """Labels of ``--rebase-merges`` live in refs/rewritten/, which each worktree has for itself."""
    ws.git("merge", "-q", "--no-edit", "--no-gpg-sign", "calm")
    stop_rebasing(ws, "--rebase-merges", "--exec", "test ! -e calm.txt", "side-adds")
    ws.expect_operation("rebase-merge")
    assert ws.refs("refs/rewritten")


@operation()
def rebase_of_detached_head(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    stop_rebasing(ws, "side-content")
    ws.expect("UU a.txt")


@operation()
def merge_within_rebase(ws: Workspace) -> None:
    ws.git("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/^pick/edit/"})
    ws.fails("merge", "-q", "side-content")
    ws.expect_operation("rebase-merge", "MERGE_HEAD")
    ws.expect("UU a.txt")


@operation(linked=True)
def cherry_pick_conflict(ws: Workspace) -> None:
    ws.fails("cherry-pick", "side-content")
    ws.expect_operation("CHERRY_PICK_HEAD", "MERGE_MSG")
    ws.expect("UU a.txt")


@operation()
def cherry_pick_sequence_conflict(ws: Workspace) -> None:
    ws.fails("cherry-pick", "base..seq")
    ws.expect_operation("CHERRY_PICK_HEAD", "sequencer/todo")
    ws.expect("UU a.txt")


@operation()
def cherry_pick_sequence_between_picks(ws: Workspace) -> None:
    """The conflict was committed by hand: only sequencer/ tells that there is more to do."""
    ws.fails("cherry-pick", "base..seq")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("commit", "-q", "--no-edit", "--no-gpg-sign")
    ws.expect_operation("sequencer/todo")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation(moves=None)
def cherry_pick_without_commit(ws: Workspace) -> None:
    ws.git("cherry-pick", "--no-commit", "calm")
    ws.expect_exactly("A  calm.txt")


@operation()
def revert_conflict(ws: Workspace) -> None:
    ws.write("a.txt", "rewritten\n")
    ws.commit("rewritten")
    ws.fails("revert", "HEAD~3")
    ws.expect_operation("REVERT_HEAD", "MERGE_MSG")
    ws.expect("UU a.txt")


@operation()
def revert_sequence_conflict(ws: Workspace) -> None:
    ws.write("b.txt", "rewritten\n")
    ws.commit("rewritten")
    ws.fails("revert", "HEAD~3..HEAD~1")
    ws.expect_operation("REVERT_HEAD", "sequencer/todo")


def _mailbox(ws: Workspace) -> str:
    mailbox = ws.outside / "mailbox"
    mailbox.write_bytes(ws.git("format-patch", "--stdout", "base..seq"))
    return str(mailbox)


@operation()
def am_conflict(ws: Workspace) -> None:
    ws.fails("am", "-q", _mailbox(ws))
    ws.expect_operation("rebase-apply/applying")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@operation()
def am_three_way_conflict(ws: Workspace) -> None:
    ws.fails("am", "-q", "--3way", _mailbox(ws))
    ws.expect_operation("rebase-apply/applying")
    ws.expect("UU a.txt")


@operation(linked=True)
def bisect(ws: Workspace) -> None:
    ws.git("bisect", "start")
    ws.git("bisect", "bad", "HEAD")
    ws.git("bisect", "good", "base")
    ws.expect_operation("BISECT_LOG", "BISECT_START")
    assert len(ws.refs("refs/bisect")) == 2
    ws.expect_exactly()


@operation()
def bisect_with_work(ws: Workspace) -> None:
    ws.git("bisect", "start", "--term-new=fast", "--term-old=slow", "HEAD", "base")
    ws.append("c.txt")
    ws.write("untracked.txt")
    ws.append("d.txt")
    ws.add("d.txt")
    ws.expect_operation("BISECT_TERMS")
    ws.expect_exactly(" M c.txt", "?? untracked.txt", "M  d.txt")


@operation()
def bisect_not_yet_moving(ws: Workspace) -> None:
    """Started and told nothing: HEAD is still on the branch."""
    ws.git("bisect", "start")
    ws.write("untracked.txt")
    ws.expect_operation("BISECT_START")
    assert ws.out("symbolic-ref", "HEAD") == "refs/heads/agent/work"


@operation(moves=None, linked=True)
def stash_pop_conflict(ws: Workspace) -> None:
    """Unmerged entries without an operation."""
    ws.write("a.txt", "stashed\n")
    ws.git("stash", "push", "-q")
    ws.write("a.txt", "committed\n")
    ws.commit("in the way")
    ws.fails("stash", "pop", "-q")
    ws.expect("UU a.txt")
    assert not (ws.git_dir / "MERGE_HEAD").exists()


@operation(moves=None)
def checkout_merge_conflict(ws: Workspace) -> None:
    ws.write("a.txt", "a.txt\n" + lines(l5="my edit"))
    ws.git("checkout", "-q", "-m", "side-content")
    ws.expect_exactly("UU a.txt")


@operation(moves=None)
def unmerged_stages_in_odd_combinations(ws: Workspace) -> None:
    blobs = [ws.git("hash-object", "-w", "--stdin", stdin=text).strip().decode() for text in (b"1\n", b"2\n", b"3\n")]
    rows = [f"0 {'0' * 40}\t{name}\n" for name in ("a.txt", "b.txt", "c.txt")]
    for name, stages in (("a.txt", "1"), ("b.txt", "13"), ("c.txt", "23"), ("x.txt", "2"), ("y.txt", "3")):
        rows += [f"100755 {blobs[int(stage) - 1]} {stage}\t{name}\n" for stage in stages]
    ws.git("update-index", "--index-info", stdin="".join(rows).encode())
    ws.expect("DD a.txt", "DU b.txt", "AA c.txt", "AU x.txt", "UA y.txt")


# --------------------------------------------------------------------------------------------------------------------
# Flags in the index, sparse checkouts, index formats
# --------------------------------------------------------------------------------------------------------------------

NO_PLAIN = EVERYWHERE - {Loss.PLAIN}


@state(losses=NO_PLAIN, quick=NO_PLAIN, moves=None)
def assume_unchanged_hides_edits(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")
    ws.expect_flags("h", "a.txt", "b.txt")


@state(losses=HERE | {Loss.REMOVED}, moves=None)
def assume_unchanged_hides_all_edits(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.append("a.txt", "hidden\n")
    ws.expect_exactly()


@state(losses=HERE | {Loss.REMOVED}, moves=None)
def assume_unchanged_hides_deletion(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.remove("a.txt")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")


@state(losses=NO_PLAIN, moves=None)
def skip_worktree_hides_edits(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    ws.expect_exactly(" M c.txt")
    ws.expect_flags("S", "a.txt", "b.txt")


@state(losses=HERE | {Loss.REMOVED}, moves=None)
def skip_worktree_hides_deletion(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a.txt", "src/lib/util.py", "src/lib/deep/x.txt")
    ws.remove("a.txt")
    ws.remove("src/lib")
    ws.write("untracked.txt")
    ws.expect_exactly("?? untracked.txt")


@state(losses=HERE | {Loss.REMOVED}, moves=None)
def skip_worktree_on_staged_content(ws: Workspace) -> None:
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.git("update-index", "--skip-worktree", "--assume-unchanged", "a.txt")
    ws.git("update-index", "--skip-worktree", "a.txt")
    ws.append("a.txt", "hidden\n")
    ws.expect_exactly("M  a.txt")


@state(losses=NO_PLAIN, quick=NO_PLAIN)
def intent_to_add(ws: Workspace) -> None:
    ws.write("planned.txt")
    ws.write("fresh/planned.sh", "#!/bin/sh\n", 0o755)
    ws.write("empty-planned.txt", "")
    ws.git("add", "-N", "planned.txt", "fresh/planned.sh", "empty-planned.txt")
    ws.expect_exactly(" A planned.txt", " A fresh/planned.sh", " A empty-planned.txt")


@state(losses=NO_PLAIN)
def intent_to_add_beside_staged(ws: Workspace) -> None:
    ws.write("planned.txt")
    ws.write("gone-again.txt")
    ws.git("add", "-N", "planned.txt", "gone-again.txt")
    ws.append("a.txt")
    ws.add("a.txt")
    ws.remove("gone-again.txt")
    ws.write("untracked.txt")
    ws.expect_exactly(" A planned.txt", " D gone-again.txt", "M  a.txt", "?? untracked.txt")


@state(losses=HERE | {Loss.REMOVED}, quick=HERE | {Loss.REMOVED}, linked=True)
def sparse_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "src/lib")
    ws.append("src/lib/util.py", "# more\n")
    ws.write("src/lib/new.py")
    ws.add("src/lib/new.py")
    ws.write("untracked.txt")
    assert not os.path.exists(ws.at("docs"))
    ws.expect_exactly(" M src/lib/util.py", "A  src/lib/new.py", "?? untracked.txt")


@state(losses=HERE | {Loss.REMOVED})
def sparse_no_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!/docs/", "!b.txt")
    ws.append("a.txt")
    ws.remove("c.txt")
    assert not os.path.exists(ws.at("b.txt"))
    ws.expect_exactly(" M a.txt", " D c.txt")


@state(losses=HERE | {Loss.REMOVED})
def sparse_index(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.append("src/lib/util.py", "# more\n")
    ws.append("a.txt")
    ws.git("add", "a.txt")
    ws.write("src/untracked.txt")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s")
    ws.expect_exactly(" M src/lib/util.py", "M  a.txt", "?? src/untracked.txt")


@state(losses=HERE | {Loss.REMOVED})
def sparse_index_with_hidden_files(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "--sparse-index", "src/lib")
    ws.git("update-index", "--skip-worktree", "a.txt", "b.txt")
    ws.append("a.txt", "hidden\n")
    ws.append("c.txt")
    assert b"040000" in ws.git("ls-files", "--sparse", "-s")
    ws.expect(" M c.txt")


@state(losses=HERE)
def sparse_with_files_outside_of_the_cone(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--cone", "src/lib")
    ws.write("docs/guide.md", "edited where nothing should be\n")
    ws.write("docs/untracked.md")
    ws.expect_exactly(" M docs/guide.md", "?? docs/untracked.md")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED})
def sparse_merge_conflict(ws: Workspace) -> None:
    ws.git("sparse-checkout", "set", "--no-cone", "/*", "!/docs/", "!/b.txt")
    stop_merging(ws, "side-deletes", "UD b.txt")


@state(losses=LOCAL, linked=True)
def index_v4(ws: Workspace) -> None:
    ws.config("index.version", "4")
    ws.git("update-index", "--index-version", "4")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.git_dir / "index").read_bytes()[7] == 4


@state(losses=LOCAL, quick=LOCAL)
def split_index(ws: Workspace) -> None:
    ws.config("core.splitIndex", "true")
    ws.git("update-index", "--split-index")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert list(ws.git_dir.glob("sharedindex.*"))


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED})
def split_index_merge_conflict(ws: Workspace) -> None:
    ws.config("core.splitIndex", "true")
    ws.git("update-index", "--split-index")
    stop_merging(ws, "side-content", "UU a.txt")
    assert list(ws.git_dir.glob("sharedindex.*"))


@state(losses=LOCAL)
def untracked_cache(ws: Workspace) -> None:
    ws.config("core.untrackedCache", "true")
    ws.git("update-index", "--force-untracked-cache")
    dirty(ws)
    ws.git("status")
    assert b"UNTR" in (ws.git_dir / "index").read_bytes()
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def feature_many_files(ws: Workspace) -> None:
    ws.config("feature.manyFiles", "true")
    ws.git("update-index", "--force-untracked-cache", "--index-version", "4")
    dirty(ws)
    ws.git("status")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, linked=True)
def core_fsmonitor_is_never_run(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.config("core.fsmonitor", ws.canary("fsmonitor"))


# --------------------------------------------------------------------------------------------------------------------
# HEAD, branches, object formats, kinds of repositories
# --------------------------------------------------------------------------------------------------------------------


@state(template="empty", losses=NO_PLAIN, quick=NO_PLAIN)
def unborn_staged(ws: Workspace) -> None:
    ws.write("a.txt")
    ws.write("b.txt")
    ws.write("c/d.txt")
    ws.add("a.txt", "b.txt")
    ws.append("b.txt")
    ws.expect_exactly("A  a.txt", "AM b.txt", "?? c/d.txt")


@state(template="empty", losses=NO_PLAIN)
def unborn_untracked_only(ws: Workspace) -> None:
    ws.write("a.txt")
    ws.write("c/d.txt")
    assert not (ws.git_dir / "index").exists()
    ws.expect_exactly("?? a.txt", "?? c/d.txt")


@state(template="empty", losses=HERE, moves=None)
def unborn_and_nothing_there(ws: Workspace) -> None:
    ws.expect_exactly()


@state(losses=NO_PLAIN, linked=True)
def orphan_branch(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "agent/new")
    ws.append("a.txt")
    ws.expect("AM a.txt", "A  b.txt")


@state(losses=NO_PLAIN, moves=False, quick=NO_PLAIN, linked=True)
def detached_dirty(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=NO_PLAIN, moves=False)
def detached_clean(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    ws.expect_exactly()


@state(losses=NO_PLAIN, moves=False)
def detached_at_a_commit_without_branch(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("only-here.txt")
    ws.commit("lonely")
    ws.append("only-here.txt")
    ws.expect_exactly(" M only-here.txt")


@state(template="sha256", quick=EVERYWHERE, linked=True)
def sha256(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-parse", "HEAD")) == 64


@operation(template="sha256")
def sha256_merge_conflict(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")


@state(template="sha256", losses=HERE | {Loss.REMOVED})
def sha256_index_v4_intent_to_add(ws: Workspace) -> None:
    ws.git("update-index", "--index-version", "4")
    ws.write("planned.txt")
    ws.git("add", "-N", "planned.txt")
    ws.git("update-index", "--assume-unchanged", "a.txt")
    ws.append("b.txt")
    ws.expect_exactly(" A planned.txt", " M b.txt")


@state()
def packed_refs_and_objects(ws: Workspace) -> None:
    dirty(ws)
    ws.git("gc", "-q")
    assert (ws.common_dir / "packed-refs").exists()
    ws.expect_exactly(*DIRTY)


def clone_in_place(ws: Workspace, *args: str) -> None:
    """Replace the workspace by a clone of itself; the original stays outside."""
    origin = ws.outside / "origin"
    os.rename(ws.path, origin)
    run_git(origin, "config", "uploadpack.allowFilter", "true")
    run_git(ws.outside, "clone", "-q", *args, origin.as_uri() if "--shared" not in args else origin, ws.path)


@state(losses=LOCAL)
def shallow_clone(ws: Workspace) -> None:
    clone_in_place(ws, "--depth=1")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert ws.out("rev-parse", "--is-shallow-repository") == "true"


@state(losses=HERE)
def partial_clone(ws: Workspace) -> None:
    clone_in_place(ws, "--filter=blob:none")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert b"?" in ws.git("rev-list", "--objects", "--all", "--missing=print")


@state()
def alternates(ws: Workspace) -> None:
    clone_in_place(ws, "--shared")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.git_dir / "objects/info/alternates").exists()


@state(losses=HERE | {Loss.REMOVED})
def worktree_of_a_bare_repository(ws: Workspace) -> None:
    bare = ws.outside / "bare.git"
    run_git(ws.outside, "clone", "-q", "--bare", ws.path, bare)
    shutil.rmtree(ws.path)
    run_git(bare, "worktree", "add", "-q", ws.path, "agent/work")
    ws.main = bare
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=HERE)
def workspace_is_a_submodule(ws: Workspace) -> None:
    parent = ws.outside / "parent"
    inner = ws.outside / "inner"
    os.rename(ws.path, inner)
    run_git(ws.outside, "init", "-q", parent)
    run_git(parent, "submodule", "--quiet", "add", "-b", "agent/work", inner, "sub")
    run_git(parent, "commit", "-q", "-m", "with a submodule")
    ws.path = parent / "sub"
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert (ws.path / ".git").is_file()


@state(losses=HERE | {Loss.REMOVED})
def inside_another_repository(ws: Workspace) -> None:
    parent = ws.outside / "parent"
    run_git(ws.outside, "init", "-q", parent)
    (parent / "theirs.txt").write_text("theirs\n")
    run_git(parent, "add", "theirs.txt")
    os.rename(ws.path, parent / "inner")
    ws.path = parent / "inner"
    ws.bystanders.append(parent)
    dirty(ws)
    ws.git("update-index", "-q", "--refresh", check=False)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def separate_git_directory(ws: Workspace) -> None:
    ws.git("init", "-q", f"--separate-git-dir={ws.outside / 'elsewhere.git'}")
    assert (ws.path / ".git").is_file()
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def core_worktree(ws: Workspace) -> None:
    ws.config("core.worktree", ws.path)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL, linked=True)
def worktree_config(ws: Workspace) -> None:
    ws.config("extensions.worktreeConfig", "true")
    ws.git("config", "--worktree", "core.quotePath", "false")
    ws.git("config", "--worktree", "status.showUntrackedFiles", "no")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def beside_other_worktrees(ws: Workspace) -> None:
    """Another worktree is locked, one has vanished, one is in the middle of a merge."""
    for name in ("locked", "vanished", "merging"):
        ws.git("worktree", "add", "-q", "-b", name, ws.outside / name)
    ws.git("worktree", "lock", ws.outside / "locked")
    shutil.rmtree(ws.outside / "vanished")
    stop_merging(Workspace(ws.outside / "merging", ws.outside), "side-content", "UU a.txt")
    ws.bystanders += [ws.outside / "merging", ws.outside / "locked"]
    dirty(ws)
    ws.expect_exactly(*DIRTY)


def work_on_branch(ws: Workspace, name: str) -> None:
    ws.git("update-ref", f"refs/heads/{name}", "HEAD")
    ws.git("symbolic-ref", "HEAD", f"refs/heads/{name}")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(quick=EVERYWHERE, linked=True)
def branch_with_shell_characters(ws: Workspace) -> None:
    work_on_branch(ws, "agent/it's-$(touch${IFS}pwned)-`touch${IFS}pwned`;touch${IFS}pwned&\"|")
    ws.canaries += [ws.path / "pwned", ws.outside / "pwned"]


@state()
def branch_with_leading_dash(ws: Workspace) -> None:
    work_on_branch(ws, "-weird")


@state()
def branch_with_unicode(ws: Workspace) -> None:
    work_on_branch(ws, "agent/\u00fcml\u00e4ut-\u6f22\u5b57-\U0001f525")


@state()
def branch_that_is_not_utf8(ws: Workspace) -> None:
    work_on_branch(ws, os.fsdecode(b"agent/caf\xe9"))


@state()
def branch_with_a_long_name(ws: Workspace) -> None:
    work_on_branch(ws, "agent/" + "x" * 200 + "/" + "y" * 200)


@state(losses=LOCAL, linked=True)
def branch_called_head(ws: Workspace) -> None:
    """Git's own clone of such a repository is broken: its refs/remotes/origin/HEAD points to itself."""
    ws.git("update-ref", "refs/tags/HEAD", "base")
    work_on_branch(ws, "HEAD")


@state(losses=LOCAL, moves=None)
def branch_is_a_symbolic_ref(ws: Workspace) -> None:
    ws.git("update-ref", "refs/heads/real", "HEAD")
    ws.git("symbolic-ref", "refs/heads/agent/work", "refs/heads/real")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(linked=True)
def branch_name_is_ambiguous(ws: Workspace) -> None:
    for name in ("refs/tags/agent/work", "refs/agent/work", "refs/heads/heads/agent/work", "refs/remotes/agent/work"):
        ws.git("update-ref", name, "base")
    ws.write("agent/work", "a file of that name\n")
    dirty(ws)
    ws.expect_exactly(*DIRTY, "?? agent/work")


@state()
def empty_commit_on_top(ws: Workspace) -> None:
    ws.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state()
def merge_commit_on_top(ws: Workspace) -> None:
    ws.git("merge", "-q", "--no-edit", "--no-gpg-sign", "calm", "calm2")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-list", "--parents", "-1", "HEAD").split()) == 4


@state()
def only_a_root_commit(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "agent/lonely")
    ws.git("commit", "-q", "-m", "root")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert len(ws.out("rev-list", "HEAD").split()) == 1


@state(losses=LOCAL)
def branch_has_an_upstream(ws: Workspace) -> None:
    clone_in_place(ws)
    ws.config("push.default", "upstream")
    ws.config("pull.rebase", "true")
    ws.config("branch.autoSetupRebase", "always")
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    assert ws.out("rev-parse", "--abbrev-ref", "@{upstream}") == "origin/agent/work"


@state(losses=LOCAL)
def reflogs_off(ws: Workspace) -> None:
    ws.config("core.logAllRefUpdates", "false")
    shutil.rmtree(ws.git_dir / "logs")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def reflogs_always(ws: Workspace) -> None:
    ws.config("core.logAllRefUpdates", "always")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def replaced_objects(ws: Workspace) -> None:
    ws.git("replace", "--graft", "HEAD", "base")
    old, new = ws.out("rev-parse", "HEAD:docs/guide.md"), ws.out("rev-parse", "HEAD:README.md")
    ws.git("replace", old, new)
    ws.append("a.txt")
    ws.add("a.txt")
    ws.write("untracked.txt")
    ws.expect("M  a.txt", "?? untracked.txt")


@state(losses=LOCAL)
def grafts_file(ws: Workspace) -> None:
    (ws.git_dir / "info" / "grafts").write_text(f"{ws.out('rev-parse', 'HEAD')} {ws.out('rev-parse', 'base')}\n")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def notes_rewrite_ref(ws: Workspace) -> None:
    ws.git("notes", "add", "-m", "a note of ours", "HEAD")
    ws.git("notes", "--ref=gitstate-of-mine", "add", "-m", "another", "HEAD")
    ws.config("notes.rewriteRef", "refs/notes/*")
    ws.config("notes.displayRef", "refs/notes/*")
    ws.config("core.notesRef", "refs/notes/elsewhere")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=HERE, moves=None)
def stale_ref_locks(ws: Workspace) -> None:
    """Left by something that was killed before the last reboot."""
    for name in ("refs/heads/agent/work.lock", "packed-refs.lock", "refs/notes/gitstate.lock"):
        lock = ws.common_dir / name
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        os.utime(lock, (1_000_000_000, 1_000_000_000))
        ws.stale_locks.append(lock)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=HERE)
def stale_index_lock(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    lock = ws.git_dir / "index.lock"
    lock.touch()
    os.utime(lock, (1_000_000_000, 1_000_000_000))
    ws.stale_locks.append(lock)


@state(losses=HERE, moves=None)
def held_index_lock(ws: Workspace) -> None:
    """A git process may be alive behind this one."""
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    (ws.git_dir / "index.lock").touch()
    ws.held_locks.append(ws.git_dir / "index.lock")


# --------------------------------------------------------------------------------------------------------------------
# Symlinks, and files that become directories
# --------------------------------------------------------------------------------------------------------------------


@state(quick=EVERYWHERE, linked=True)
def symlinks(ws: Workspace) -> None:
    (ws.outside / "secret.txt").write_text("not ours\n")
    ws.symlink("nowhere", "dangling")
    ws.symlink("docs", "to-directory")
    ws.symlink(str(ws.outside), "to-outside")
    ws.symlink(str(ws.outside / "secret.txt"), "to-secret")
    ws.symlink("/etc/passwd", "absolute")
    ws.symlink("itself", "itself")
    ws.symlink(".git", "to-git")
    ws.symlink("..", "src/up")
    ws.symlink(b"caf\xe9\nnew line", "odd-target")
    ws.symlink("x" * 4000, "long-target")
    ws.symlink("c.txt", "link")
    ws.symlink("a.txt", "staged-link")
    ws.add("staged-link")
    ws.symlink("b.txt", "staged-link")
    ws.expect(" M link", "AM staged-link", "?? dangling", "?? to-directory", "?? to-outside", "?? to-git", "?? src/up")


SHAPES = ("file", "directory", "symlink")


def _shape(ws: Workspace, path: str, shape: str) -> None:
    if os.path.lexists(ws.at(path)):
        ws.remove(path)
    if shape == "file":
        ws.write(path, f"{path} as a file\n")
    elif shape == "symlink":
        ws.symlink("docs", path)  # the directory has a guide.md as well: whoever follows the link hits the wrong one
    else:
        ws.write(f"{path}/guide.md", f"{path} as a directory\n")
        ws.write(f"{path}/sub/x.txt")


def _swaps(ws: Workspace) -> list[tuple[str, str, str]]:
    """Commit one path for each pair of shapes, in the first of them."""
    pairs = [(f"{one}-to-{other}", one, other) for one in SHAPES for other in SHAPES if one != other]
    for path, one, _ in pairs:
        _shape(ws, path, one)
    ws.commit("shapes")
    return pairs


@state(quick=EVERYWHERE)
def swaps_unstaged(ws: Workspace) -> None:
    for path, _, other in _swaps(ws):
        _shape(ws, path, other)
    ws.expect(" D directory-to-file/guide.md", "?? directory-to-file", " T file-to-symlink", " D file-to-directory")


@state()
def swaps_staged(ws: Workspace) -> None:
    for path, _, other in _swaps(ws):
        _shape(ws, path, other)
    ws.git("add", "-A")
    ws.expect("D  directory-to-file/guide.md", "A  directory-to-file", "T  file-to-symlink", "D  file-to-directory")


@state()
def swaps_staged_then_swapped_back(ws: Workspace) -> None:
    pairs = _swaps(ws)
    for path, _, other in pairs:
        _shape(ws, path, other)
    ws.git("add", "-A")
    for path, one, _ in pairs:
        _shape(ws, path, one)
    ws.expect("AD directory-to-file", "?? directory-to-file/guide.md", "TT file-to-symlink", "?? file-to-directory")


@state()
def swaps_staged_then_into_the_third_shape(ws: Workspace) -> None:
    pairs = _swaps(ws)
    for path, _, other in pairs:
        _shape(ws, path, other)
    ws.git("add", "-A")
    for path, one, other in pairs:
        _shape(ws, path, next(shape for shape in SHAPES if shape not in (one, other)))
    ws.expect("AT directory-to-file")


@state()
def directory_to_empty_directory_and_back(ws: Workspace) -> None:
    ws.remove("src/lib")
    ws.mkdir("src/lib")
    ws.remove("a.txt")
    ws.mkdir("a.txt")
    ws.expect(" D src/lib/util.py", " D a.txt")


# --------------------------------------------------------------------------------------------------------------------
# Names
# --------------------------------------------------------------------------------------------------------------------


def _names(ws: Workspace, *names: Pathish) -> None:
    """Each name untracked in the root, and edited, deleted, renamed, staged and executable in a directory each."""
    raw = [to_bytes(name) for name in names]
    for name in raw:
        for role in (b"edited", b"deleted", b"dropped", b"old"):
            ws.write(role + b"/" + name, role + b" " + name[:20] + b"\n" + to_bytes(lines()))
    ws.commit("names")
    ws.mkdir("new")
    for name in raw:
        ws.append(b"edited/" + name)
        ws.remove(b"deleted/" + name)
        ws.git("--literal-pathspecs", "rm", "-q", "--", b"dropped/" + name)
        ws.git("--literal-pathspecs", "mv", "--", b"old/" + name, b"new/" + name)
        ws.write(b"staged/" + name, b"staged " + name[:20] + b"\n", 0o755)
        ws.add(b"staged/" + name)
        ws.write(name, b"untracked " + name[:20] + b"\n")
        ws.write(name + b".d/inner" if len(name) < 200 else b"d/" + name, b"in a directory\n")
    for name in raw:
        ws.expect(b" M edited/" + name, b" D deleted/" + name, b"D  dropped/" + name, b"A  staged/" + name)
        ws.expect(b"?? " + name)


@state(quick=EVERYWHERE)
def names_with_quotes_and_newlines(ws: Workspace) -> None:
    _names(ws, "new\nline", 'quo"te', "apos'trophe", "back\\slash", "tab\there", "cr\rhere", "bell\a", "\x7f", "\x01")


@state(quick=EVERYWHERE)
def names_that_are_not_utf8(ws: Workspace) -> None:
    _names(ws, b"caf\xe9", b"\xff\xfe", b"half \xe6\xbc", b"\x80", b"sur\xed\xb2\x80rogate")


@state()
def names_with_dashes(ws: Workspace) -> None:
    _names(ws, "-", "--", "-rf", "--force", "--help", "-z")


@state()
def names_with_pathspec_magic(ws: Workspace) -> None:
    _names(ws, ":(top)x", ":!x", ":^x", "*", "?", "[a]", ":", "**", ":(exclude)*", "@", "@{0}", "HEAD~1", "!bang")


@state()
def names_with_spaces_and_hashes(ws: Workspace) -> None:
    odd = ("~", "%s%n", "a;b&c|d", "$HOME", "$(touch pwned)")
    _names(ws, " leading", "trailing ", "  ", "#hash", "dot.", "a -> b", *odd)


@state()
def names_in_unicode_forms(ws: Workspace) -> None:
    _names(ws, "u\u0308ber", "\u00fcber", "\u202ertl", "zero\u200bwidth", "\U0001f525", "line\u2028sep", "\ufeffbom")


@state()
def names_that_git_uses_itself(ws: Workspace) -> None:
    _names(ws, "HEAD", "FETCH_HEAD", "index", "refs", "objects", "config", "agent", "master", "gitstate", "git", "tmp")


@state()
def names_that_differ_in_case(ws: Workspace) -> None:
    _names(ws, "Readme", "README", "readme", "A.TXT")


@state()
def names_of_255_bytes(ws: Workspace) -> None:
    _names(ws, "x" * 255, "\u00fc" * 127, "y" * 250 + "\n")


@state()
def deep_nesting(ws: Workspace) -> None:
    deep = "/".join(["d" * 40] * 40)
    ws.write(f"{deep}/tracked.txt")
    ws.commit("deep")
    ws.append(f"{deep}/tracked.txt")
    ws.write(f"{deep}/staged.txt")
    ws.add(f"{deep}/staged.txt")
    ws.write(f"{deep}/untracked.txt")
    ws.write("/".join(["e"] * 500) + "/untracked.txt")
    ws.expect(f" M {deep}/tracked.txt", f"A  {deep}/staged.txt", f"?? {deep}/untracked.txt")


@state(
    losses=HERE,
    may_leave_out=("git~1", "sub/.GIT", ".git \u200c", "sub/.g\u200cit", "sub/.git "),
    status_says_more=True,
    save_exits=(0, 4),
)
def names_that_git_refuses(ws: Workspace) -> None:
    """``git add`` fails on these; all else must be saved nevertheless."""
    ws.write("git~1", "refused on NTFS\n")
    ws.write("sub/.GIT", "refused everywhere\n")
    ws.write("sub/ok.txt")
    ws.append("a.txt")
    ws.fails("add", "git~1")
    ws.fails("add", "sub/.GIT")
    ws.expect(" M a.txt")


@state(losses=HERE, may_leave_out=("sub/.git",), status_says_more=True, save_exits=(0, 4))
def a_git_directory_that_is_no_repository(ws: Workspace) -> None:
    ws.mkdir("sub/.git")
    ws.write("sub/file.txt")
    ws.write("other/.git", "no gitdir here\n")
    ws.append("a.txt")
    ws.remove("other")
    ws.expect(" M a.txt")


# --------------------------------------------------------------------------------------------------------------------
# Line endings, encodings, filters
# --------------------------------------------------------------------------------------------------------------------

CRLF = "one\r\ntwo\r\nthree\r\n"
MIXED = "one\r\ntwo\nthree\r\n"


@state(quick=EVERYWHERE)
def eol_text_auto(ws: Workspace) -> None:
    ws.write(".gitattributes", "* text=auto\n")
    ws.write("crlf.txt", "one\ntwo\n")
    ws.commit("text=auto")
    ws.write("crlf.txt", CRLF)
    ws.write("mixed.txt", MIXED)
    ws.write("untracked.txt", CRLF)
    ws.write("staged.txt", CRLF)
    ws.add("staged.txt")
    ws.write("binary.bin", b"\0\r\n\n\r")
    ws.expect(" M crlf.txt", "?? mixed.txt", "?? untracked.txt", "A  staged.txt")
    assert b"\r" not in ws.git("cat-file", "blob", ":staged.txt")


@state()
def eol_attributes(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.crlf text eol=crlf\n*.lf text eol=lf\n*.raw -text\n")
    for suffix in ("crlf", "lf", "raw"):
        ws.write(f"t.{suffix}", "one\n")
    ws.commit("eol")
    for suffix in ("crlf", "lf", "raw"):
        ws.write(f"t.{suffix}", MIXED)
        ws.write(f"u-lf.{suffix}", "one\ntwo\n")
        ws.write(f"u-crlf.{suffix}", CRLF)
        ws.write(f"u-mixed.{suffix}", MIXED)
    ws.expect(" M t.crlf", " M t.lf", " M t.raw", "?? u-lf.crlf", "?? u-crlf.lf")


@state(losses=LOCAL)
def eol_autocrlf_true(ws: Workspace) -> None:
    ws.config("core.autocrlf", "true")
    ws.write("a.txt", "only\nlf\n")
    ws.write("b.txt", CRLF)
    ws.write("u-lf.txt", "only\nlf\n")
    ws.write("u-crlf.txt", CRLF)
    ws.write("u-mixed.txt", MIXED)
    ws.expect(" M a.txt", " M b.txt", "?? u-lf.txt", "?? u-crlf.txt")


@state(losses=LOCAL)
def eol_autocrlf_input(ws: Workspace) -> None:
    ws.config("core.autocrlf", "input")
    ws.write("a.txt", CRLF)
    ws.write("u-mixed.txt", MIXED)
    ws.write("staged.txt", CRLF)
    ws.add("staged.txt")
    ws.expect(" M a.txt", "?? u-mixed.txt", "A  staged.txt")


@state(losses=LOCAL, quick=LOCAL)
def eol_all_of_it_staged(ws: Workspace) -> None:
    """Nothing differs from the index, and no checkout would give these line ends back."""
    ws.config("core.autocrlf", "input")
    ws.write("a.txt", CRLF)
    ws.write("new.txt", MIXED)
    ws.write("lf.txt", "one\ntwo\n")
    ws.add("a.txt", "new.txt", "lf.txt")
    ws.expect_exactly("M  a.txt", "A  new.txt", "A  lf.txt")


@state(losses=LOCAL)
def eol_safecrlf(ws: Workspace) -> None:
    """``git add`` refuses a file whose line endings would not come back."""
    ws.config("core.autocrlf", "true")
    ws.config("core.safecrlf", "true")
    ws.write("a.txt", MIXED)
    ws.write("u-mixed.txt", MIXED)
    ws.fails("add", "a.txt")
    ws.fails("add", "u-mixed.txt")
    ws.expect(" M a.txt", "?? u-mixed.txt")


@state(losses=LOCAL | {Loss.CLONED}, quick=EVERYWHERE)
def eol_crlf_in_a_clean_file(ws: Workspace) -> None:
    """Clean, for git; a checkout would give other bytes."""
    ws.write(".gitattributes", "*.txt text\n")
    ws.write("clean.txt", "one\ntwo\n")
    ws.commit("text")
    ws.write("clean.txt", "one\r\ntwo\r\n")
    ws.git("add", "--renormalize", "clean.txt")
    ws.git("update-index", "--refresh")
    ws.append("b.txt")
    ws.expect_exactly(" M b.txt")


@state(losses=LOCAL, status_says_more=True)
def eol_committed_unnormalized(ws: Workspace) -> None:
    """CRLF stands in the history although attributes forbid it: git calls the file modified whatever one does."""
    ws.write("crlf.txt", CRLF)
    ws.commit("crlf in history")
    ws.write(".gitattributes", "* text\n")
    ws.commit("too late")
    ws.write("crlf.txt", CRLF + "four\r\n")
    ws.append("b.txt")
    ws.expect(" M crlf.txt", " M b.txt")


@state(quick=EVERYWHERE)
def encoding_utf16(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.u16 text working-tree-encoding=UTF-16\n*.le working-tree-encoding=UTF-16LE-BOM\n")
    ws.write("t.u16", "tracked\n".encode("utf-16"))
    ws.commit("utf-16")
    ws.write("t.u16", "tracked and edited \u6f22\n".encode("utf-16"))
    ws.write("u.u16", "untracked\r\n".encode("utf-16"))
    ws.write("u.le", b"\xff\xfe" + "untracked\n".encode("utf-16-le"))
    ws.write("big-endian.u16", b"\xfe\xff" + "big endian\n".encode("utf-16-be"))
    ws.expect(" M t.u16", "?? u.u16")


@state(losses=HERE | {Loss.REMOVED}, status_says_more=True)
def encoding_that_fails(ws: Workspace) -> None:
    """``git add`` dies on these: half a character, and an encoding that does not exist."""
    ws.write(".gitattributes", "*.u16 text working-tree-encoding=UTF-16\n*.odd text working-tree-encoding=NO-SUCH\n")
    ws.write("broken.u16", b"\xff\xfea\0b")
    ws.write("no-bom.u16", b"a\0b\0")
    ws.write("file.odd", b"bytes \xff\n")
    ws.append("a.txt")
    ws.fails("add", "broken.u16")
    ws.expect(" M a.txt", "?? broken.u16")


@state()
def ident(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.c ident\n")
    ws.write("t.c", "/* $Id$ */\n")
    ws.commit("ident")
    ws.write("t.c", "/* $Id: 0123 not mine $ */\nint x;\n")
    ws.write("u.c", "/* $Id: garbage $ */\n")
    ws.expect(" M t.c", "?? u.c")


def _filter(
    ws: Workspace, name: str, clean: str | Path | None, smudge: str | Path | None, *, required: bool = False
) -> None:
    """Commit ``*.f`` files without the filter, then turn it on."""
    ws.write(".gitattributes", f"*.f filter={name}\n")
    ws.write("tracked.f", "Tracked\n")
    ws.write("unchanged.f", "Unchanged\n")
    if clean is not None:
        ws.config(f"filter.{name}.clean", clean)
    if smudge is not None:
        ws.config(f"filter.{name}.smudge", smudge)
    ws.config(f"filter.{name}.required", "true" if required else "false")


def _filtered_work(ws: Workspace) -> None:
    ws.append("tracked.f", "Edited  \n")
    ws.write("untracked.f", "Untracked \n")
    ws.append("a.txt")


@state(losses=LOCAL)
def filter_that_works(ws: Workspace) -> None:
    rot13 = "tr A-Za-z N-ZA-Mn-za-m"
    _filter(ws, "rot13", rot13, rot13, required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", "Staged\n")
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f") == b"Fgntrq\n"
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


@state(losses=LOCAL)
def filter_that_loses_bytes(ws: Workspace) -> None:
    _filter(ws, "trim", "sed 's/ *$//'", "cat")
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=HERE)
def filter_that_hides_edits(ws: Workspace) -> None:
    """A filter that cleans everything to the same text: git sees no change, the bytes on disk did change."""
    _filter(ws, "same", "echo same", "cat")
    ws.commit("filtered")
    ws.append("tracked.f", "an edit that git cannot see\n")
    ws.git("add", "tracked.f")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL, status_says_more=True)
def filter_that_fails(ws: Workspace) -> None:
    _filter(ws, "broken", None, None)
    ws.commit("filtered")
    ws.config("filter.broken.clean", "false")
    ws.config("filter.broken.smudge", "false")
    _filtered_work(ws)
    ws.expect(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=HERE | {Loss.REMOVED}, status_says_more=True)
def filter_that_fails_but_is_required(ws: Workspace) -> None:
    _filter(ws, "broken", None, None)
    ws.commit("filtered")
    ws.config("filter.broken.required", "true")
    ws.config("filter.broken.clean", "false")
    ws.config("filter.broken.smudge", "false")
    _filtered_work(ws)
    ws.fails("add", "untracked.f")


@state()
def filter_that_is_missing(ws: Workspace) -> None:
    """Named by attributes, but nobody has configured it here."""
    ws.write(".gitattributes", "*.f filter=lfs diff=lfs merge=lfs -text\n")
    ws.write("tracked.f", "Tracked\n")
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")


@state(losses=HERE | {Loss.REMOVED}, status_says_more=True, quick=HERE | {Loss.REMOVED})
def filter_whose_program_is_missing(ws: Workspace) -> None:
    _filter(ws, "gone", None, None)
    ws.commit("filtered")
    for step in ("clean", "smudge", "process"):
        ws.config(f"filter.gone.{step}", "/no/such/program")
    ws.config("filter.gone.required", "true")
    _filtered_work(ws)
    ws.fails("add", "untracked.f")


@state(losses=HERE | {Loss.REMOVED}, status_says_more=True, quick=HERE | {Loss.REMOVED})
def filter_that_cannot_smudge(ws: Workspace) -> None:
    """Like git-lfs with its store gone: in works, out does not."""
    _filter(ws, "oneway", "cat", "cat", required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt")
    ws.config("filter.oneway.smudge", "false")


@state(losses=LOCAL)
def filter_with_pointers(ws: Workspace) -> None:
    """Like git-lfs: the blob is a pointer, the content stands in a store."""
    store = ws.outside / "store"
    store.mkdir()
    quoted = shlex.quote(str(store))
    clean = ws.script(
        "clean.sh",
        f'cat >{quoted}/$$ && sum=$(sha256sum <{quoted}/$$ | cut -d" " -f1) && mv {quoted}/$$ {quoted}/$sum\n'
        'printf "version pointer\\noid %s\\n" "$sum"\n',
    )
    smudge = ws.script("smudge.sh", f'read x; read x sum; cat {quoted}/"$sum"\n')
    _filter(ws, "pointer", clean, smudge, required=True)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", os.urandom(100_000))
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f").startswith(b"version pointer\n")
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


PROCESS_FILTER = """\
import sys

def read():
    size = int(sys.stdin.buffer.read(4) or b"0", 16)
    return sys.stdin.buffer.read(size - 4) if size > 4 else None

def read_all():
    return list(iter(read, None))

def write(*packets):
    for packet in packets:
        sys.stdout.buffer.write(b"0000" if packet is None else b"%04x" % (len(packet) + 4) + packet)
    sys.stdout.buffer.flush()

read_all()
write(b"git-filter-server\\n", b"version=2\\n", None)
read_all()
write(b"capability=clean\\n", b"capability=smudge\\n", None)
while headers := read_all():
    data = b"".join(read_all())
    shift = 1 if b"command=clean\\n" in headers else -1
    data = bytes((byte + shift) % 256 for byte in data)
    write(b"status=success\\n", None, *(data[at:at + 60000] for at in range(0, len(data), 60000)), None, None)
"""


@state(losses=LOCAL)
def filter_as_a_process(ws: Workspace) -> None:
    program = ws.outside / "filter.py"
    program.write_text(PROCESS_FILTER)
    command = shlex.join([sys.executable, "-S", "-E", str(program)])
    _filter(ws, "process", None, None, required=True)
    ws.config("filter.process.process", command)
    ws.commit("filtered")
    _filtered_work(ws)
    ws.write("staged.f", bytes(range(256)) * 1000)
    ws.add("staged.f")
    assert ws.git("cat-file", "blob", ":staged.f") != ws.read("staged.f")
    ws.expect_exactly(" M tracked.f", "?? untracked.f", " M a.txt", "A  staged.f")


@state(quick=EVERYWHERE)
def attributes_not_committed(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.txt text eol=crlf\n*.md ident\n")
    ws.write("docs/.gitattributes", "* -text\n")
    ws.write("u.txt", "one\ntwo\n")
    ws.write("c.txt", CRLF)
    ws.expect("?? .gitattributes", "?? docs/.gitattributes", "?? u.txt", " M c.txt")


@state()
def attributes_staged_and_edited(ws: Workspace) -> None:
    ws.write(".gitattributes", "*.txt text\n")
    ws.add(".gitattributes")
    ws.write("c.txt", CRLF)
    ws.write(".gitattributes", "*.txt -text\n*.md working-tree-encoding=UTF-16\n")
    ws.write("u.txt", MIXED)
    ws.expect("AM .gitattributes", " M c.txt", "?? u.txt")


@state(status_says_more=True)
def attributes_made_every_file_modified(ws: Workspace) -> None:
    """``* text`` arrives where CRLF is committed; nothing else was touched."""
    ws.write("crlf.txt", CRLF)
    ws.commit("crlf")
    ws.write(".gitattributes", "* text=auto eol=lf\n")
    ws.expect("?? .gitattributes")


@state()
def attributes_for_archives(ws: Workspace) -> None:
    ws.write(".gitattributes", "docs export-ignore\n*.txt export-subst\na.txt merge=ours -delta\nd.txt binary\n")
    ws.append("docs/guide.md")
    ws.append("a.txt", "$Format:%H$\n")
    ws.expect_exactly("?? .gitattributes", " M docs/guide.md", " M a.txt")


# --------------------------------------------------------------------------------------------------------------------
# Repositories within
# --------------------------------------------------------------------------------------------------------------------


def add_submodule(ws: Workspace, name: str = "sub") -> Workspace:
    """Commit a submodule with two commits of its own; returns its worktree."""
    origin = ws.outside / f"{name}-origin"
    run_git(ws.outside, "init", "-q", "-b", "main", origin)
    for number in ("1", "2"):
        (origin / "inner.txt").write_text(lines(int(number) + 3))
        run_git(origin, "add", "inner.txt")
        run_git(origin, "commit", "-q", "-m", number)
    ws.git("submodule", "--quiet", "add", str(origin), name)
    ws.commit(f"submodule {name}")
    return Workspace(ws.path / name, ws.outside)


NESTED = {"status_says_more": True, "save_exits": (0, 4), "losses": HERE | {Loss.REMOVED}}


@state(**NESTED, quick=HERE | {Loss.REMOVED}, may_leave_out=["sub"])
def submodule_clean(ws: Workspace) -> None:
    add_submodule(ws)
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(**NESTED, may_leave_out=["sub"])
def submodule_moved_and_staged(ws: Workspace) -> None:
    add_submodule(ws).git("checkout", "-q", "HEAD~1")
    ws.git("add", "sub")
    ws.append("a.txt")
    ws.expect_exactly("M  sub", " M a.txt")


@state(**NESTED, may_leave_out=["sub"])
def submodule_moved_not_staged(ws: Workspace) -> None:
    add_submodule(ws).git("checkout", "-q", "HEAD~1")
    ws.expect_exactly(" M sub")


@state(**NESTED, may_leave_out=["sub"])
def submodule_with_new_commit(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.commit("only here")
    ws.expect_exactly(" M sub")


@state(**NESTED, quick=HERE | {Loss.REMOVED}, may_leave_out=["sub"])
def submodule_dirty(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.write("staged.txt")
    sub.add("staged.txt")
    sub.write("untracked.txt")
    sub.mkdir("hollow")
    ws.append("a.txt")
    ws.expect_exactly(" M sub", " M a.txt")


@state(**NESTED, may_leave_out=["sub"])
def submodule_with_untracked_only(ws: Workspace) -> None:
    add_submodule(ws).write("untracked.txt")
    ws.expect_exactly(" M sub")


@state(**NESTED, may_leave_out=["sub"])
def submodule_dirty_but_ignored_by_config(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    sub.write("untracked.txt")
    ws.config("diff.ignoreSubmodules", "all")
    ws.config("submodule.sub.ignore", "all")
    ws.append("a.txt")
    ws.expect_exactly(" M sub", " M a.txt")
    assert b" sub" not in ws.git("status", "--porcelain")


@state(**NESTED, may_leave_out=["sub"])
def submodule_deleted(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    ws.expect_exactly(" D sub")


@state(**NESTED, may_leave_out=["sub"])
def submodule_replaced_by_file(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    ws.write("sub", "a file now\n")
    ws.expect_exactly(" T sub")


@state(losses=LOCAL, may_leave_out=["sub"])
def submodule_not_initialised(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(**NESTED, may_leave_out=["sub"])
def submodule_added_not_committed(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("reset", "-q", "--soft", "HEAD~1")
    ws.expect_exactly("A  .gitmodules", "A  sub")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED}, may_leave_out=["sub"])
def submodule_deleted_in_a_merge(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    stop_merging(ws, "side-content")
    ws.expect(" D sub", "UU a.txt")


@state(**NESTED, quick=HERE | {Loss.REMOVED}, moves=False, may_leave_out=["sub"])
def submodule_of_a_later_commit(ws: Workspace) -> None:
    """HEAD went back to before the submodule was added: its worktree is still there."""
    sub = add_submodule(ws)
    sub.append("inner.txt")
    ws.git("checkout", "-q", "--detach", "HEAD~1")
    ws.expect_exactly("?? sub/")


@operation(losses={Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED}, may_leave_out=["sub"], save_exits=(0, 4))
def submodule_merge_conflict(ws: Workspace) -> None:
    sub = add_submodule(ws)
    ws.git("branch", "-q", "other")
    tips = []
    for name in ("ours", "theirs"):
        sub.git("checkout", "-q", "-B", name, "HEAD~1" if name == "theirs" else "HEAD")
        sub.write("inner.txt", name)
        tips.append(sub.commit(name))
    ws.git("update-index", "--cacheinfo", f"160000,{tips[0]},sub")
    ws.git("commit", "-q", "-m", "ours")
    ws.git("checkout", "-q", "other")
    ws.git("update-index", "--cacheinfo", f"160000,{tips[1]},sub")
    ws.git("commit", "-q", "-m", "theirs")
    ws.git("checkout", "-q", "agent/work")
    ws.fails("merge", "-q", "other")
    ws.expect("UU sub")


def nested_repository(ws: Workspace, path: str, *, commit: bool) -> Workspace:
    run_git(ws.path, "init", "-q", "-b", "inner", path)
    inner = Workspace(ws.path / path, ws.outside)
    inner.write("inner.txt")
    if commit:
        inner.commit("inner")
    return inner


@state(**NESTED, may_leave_out=["nested"])
def nested_repository_without_commits(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=False)
    ws.append("a.txt")
    ws.write("untracked.txt")
    ws.expect(" M a.txt", "?? untracked.txt", "?? nested/")


@state(**NESTED, may_leave_out=["nested"])
def nested_repository_with_commits(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True)
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt", "?? nested/")


@state(**NESTED, may_leave_out=["nested", "fresh/nested"])
def nested_repositories_with_work(ws: Workspace) -> None:
    dirty(nested_fresh(ws, "nested"))
    inner = nested_repository(ws, "fresh/nested", commit=True)
    inner.append("inner.txt")
    inner.write("untracked.txt")
    ws.write("fresh/beside.txt")
    ws.expect("?? nested/", "?? fresh/nested/", "?? fresh/beside.txt")


def nested_fresh(ws: Workspace, path: str) -> Workspace:
    """A clone of the workspace inside of itself, with all of its files."""
    run_git(ws.outside, "clone", "-q", ws.path, ws.path / path)
    return Workspace(ws.path / path, ws.outside)


@state(**NESTED, may_leave_out=["nested"])
def nested_repository_staged_as_a_link(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "nested")
    ws.expect_exactly("A  nested")


@state(**NESTED, may_leave_out=["wt"])
def nested_worktree_of_the_same_repository(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "agent/second", "wt")
    ws.append("a.txt")
    ws.expect(" M a.txt", "?? wt/")


@state(losses=HERE)
def nested_repository_ignored(ws: Workspace) -> None:
    """An agent's worktrees below .worktrees/: ignored, so none of this workspace's business."""
    ws.append(".gitignore", "/.worktrees/\n")
    ws.git("worktree", "add", "-q", "-b", "agent/second", ".worktrees/second")
    ws.append("a.txt")
    ws.expect_exactly(" M .gitignore", " M a.txt")


@state()
def bare_repository_among_the_files(ws: Workspace) -> None:
    run_git(ws.path, "init", "-q", "--bare", "--template=", "fixtures/bare.git")
    assert b"?? fixtures/bare.git/HEAD" in ws.status()


# --------------------------------------------------------------------------------------------------------------------
# Ignored or not
# --------------------------------------------------------------------------------------------------------------------


@state()
def tracked_but_ignored(ws: Workspace) -> None:
    ws.write("tracked.log")
    ws.write("build/tracked.txt")
    ws.add("tracked.log", "build/tracked.txt")
    ws.commit("ignored but tracked")
    ws.append("tracked.log")
    ws.remove("build/tracked.txt")
    ws.write("build/really-ignored.txt")
    ws.write("forced.log")
    ws.add("forced.log")
    ws.expect_exactly(" M tracked.log", " D build/tracked.txt", "A  forced.log")


@state()
def gitignore_newly_ignores(ws: Workspace) -> None:
    ws.write("notes.tmp")
    ws.write("fresh/notes.tmp")
    ws.write("fresh/file.txt")
    ws.append(".gitignore", "*.tmp\n")
    ws.expect_exactly(" M .gitignore", "?? fresh/file.txt")


@state(quick=EVERYWHERE)
def gitignore_no_longer_ignores(ws: Workspace) -> None:
    ws.write("notes.log")
    ws.write("build/out.txt")
    ws.write(".gitignore", "nothing\n")
    ws.expect_exactly(" M .gitignore", "?? notes.log", "?? build/out.txt")


@state()
def gitignore_deleted(ws: Workspace) -> None:
    ws.write("notes.log")
    ws.remove(".gitignore")
    ws.expect_exactly(" D .gitignore", "?? notes.log")


@state()
def ignored_files_beside(ws: Workspace) -> None:
    """Ignored files stay where they are in place; nobody asked to keep them beyond that."""
    ws.write("x.log")
    ws.write("build/a/b/out.o")
    ws.write("src/lib/only/ignored.log")
    ws.mkdir("build/hollow")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL)
def excluded_by_other_files(ws: Workspace) -> None:
    (ws.outside / "excludes").write_text("*.mine\n")
    ws.config("core.excludesFile", ws.outside / "excludes")
    (ws.git_dir / "info").mkdir(exist_ok=True)
    with (ws.git_dir / "info" / "exclude").open("a") as file:
        file.write("/local/")  # and no newline at the end
    ws.write("x.mine")
    ws.write("local/x.txt")
    ws.append("a.txt")
    ws.expect_exactly(" M a.txt")


@state(losses=LOCAL)
def untracked_files_not_shown(ws: Workspace) -> None:
    ws.config("status.showUntrackedFiles", "no")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


# --------------------------------------------------------------------------------------------------------------------
# Configuration, hooks, environment
# --------------------------------------------------------------------------------------------------------------------


@state(losses=LOCAL, linked=True)
def no_identity(ws: Workspace) -> None:
    dirty(ws)
    ws.git("config", "--global", "--remove-section", "user")
    ws.config("user.useConfigOnly", "true")
    ws.fails("commit", "-q", "-m", "who am I?")
    ws.expect_exactly(*DIRTY)


HOOKS = (
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "reference-transaction",
)


def install_hooks(ws: Workspace, directory: Path, body: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    trace = ws.outside / "canary-hook"
    ws.canaries.append(trace)
    for name in HOOKS:
        (directory / name).write_text(f"#!/bin/sh\necho {name} >>{shlex.quote(str(trace))}\n{body}\n")
        (directory / name).chmod(0o755)


@state(quick=LOCAL, losses=LOCAL, linked=True)
def hooks_that_fail(ws: Workspace) -> None:
    dirty(ws)
    install_hooks(ws, ws.common_dir / "hooks", "exit 1")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def hooks_that_scribble(ws: Workspace) -> None:
    dirty(ws)
    install_hooks(ws, ws.common_dir / "hooks", 'echo "$0" >>a.txt; echo "$0" >scribble.txt; git add -A; exit 0')
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def hooks_in_the_worktree(ws: Workspace) -> None:
    dirty(ws)
    ws.config("core.hooksPath", ".githooks")
    install_hooks(ws, ws.path / ".githooks", "exit 1")
    ws.expect(*DIRTY, "?? .githooks/pre-commit")


@state(losses=LOCAL)
def signing_that_fails(ws: Workspace) -> None:
    dirty(ws)
    program = ws.canary("gpg")
    for name in ("commit", "tag", "push"):
        ws.config(f"{name}.gpgSign", "true" if name != "push" else "if-asked")
    for name in ("gpg.program", "gpg.ssh.program", "gpg.x509.program"):
        ws.config(name, program)
    ws.config("user.signingKey", "0xDEADBEEF")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def programs_in_the_config(ws: Workspace) -> None:
    dirty(ws)
    program = str(ws.canary("program"))
    for name in (
        "core.pager", "core.editor", "sequence.editor", "core.askPass", "core.sshCommand", "credential.helper",
        "diff.external", "diff.mine.command", "diff.mine.textconv", "merge.mine.driver", "interactive.diffFilter",
        "pager.status", "pager.log", "trailer.mine.cmd", "browser.mine.cmd", "man.viewer", "core.alternateRefsCommand",
        "uploadpack.packObjectsHook", "web.browser", "diff.tool", "difftool.mine.cmd", "core.gitProxy",
        "gc.recentObjectsHook",
    ):  # fmt: skip
        ws.config(name, program)
    for name in ("status", "add", "commit", "update-ref", "cat-file", "rev-parse", "commit-tree", "checkout-index"):
        ws.config(f"alias.{name}", f"!{program}")
    ws.write(".gitattributes", "* diff=mine merge=mine\n")
    ws.expect(*DIRTY)


@state(losses=LOCAL)
def config_that_changes_output(ws: Workspace) -> None:
    dirty(ws)
    for name, value in {
        "status.short": "true", "status.branch": "true", "status.showStash": "true", "status.relativePaths": "false",
        "status.renames": "copies", "status.aheadBehind": "true", "status.submoduleSummary": "true",
        "color.ui": "always", "color.status": "always", "color.diff": "always", "core.abbrev": "4",
        "core.quotePath": "false", "diff.noprefix": "true", "diff.renames": "copies", "diff.mnemonicPrefix": "true",
        "diff.orderFile": str(ws.outside / "order"), "diff.submodule": "log", "log.showSignature": "true",
        "log.date": "relative", "format.pretty": "oneline", "i18n.logOutputEncoding": "ISO-8859-1",
        "i18n.commitEncoding": "ISO-8859-1", "core.commentChar": "T", "commit.cleanup": "scissors",
        "commit.template": "/no/such/file", "commit.verbose": "true", "trailer.separators": "%",
        "trailer.ifexists": "replace", "trailer.where": "start", "core.compression": "9", "core.bigFileThreshold": "1",
        "core.preloadIndex": "false", "index.threads": "1", "core.checkStat": "minimal", "core.trustctime": "false",
        "core.warnAmbiguousRefs": "true", "core.ignoreStat": "false", "core.precomposeUnicode": "true",
        "core.protectHFS": "true", "core.whitespace": "trailing-space", "apply.whitespace": "fix",
        "pack.threads": "1", "pack.indexVersion": "2", "pack.packSizeLimit": "1m", "pack.writeReverseIndex": "true",
        "transfer.fsckObjects": "true", "fsck.zeroPaddedFilemode": "ignore", "log.excludeDecoration": "refs/gitstate/*",
        "rerere.enabled": "true", "submodule.recurse": "true", "advice.statusHints": "true", "ui.editor": "x",
        "gc.auto": "1", "gc.pruneExpire": "now", "gc.reflogExpire": "now", "maintenance.auto": "true",
    }.items():  # fmt: skip
        ws.config(name, value)
    (ws.outside / "order").write_text("z*\n")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def gc_due(ws: Workspace) -> None:
    """One object more and git would start a gc; a crashing process has no time for that."""
    dirty(ws)
    for number in range(12):
        ws.git("hash-object", "-w", "--stdin", stdin=b"loose %d\n" % number)
    ws.config("gc.auto", "1")
    ws.config("gc.autoPackLimit", "1")
    ws.config("gc.autoDetach", "false")
    install_hooks(ws, ws.git_dir / "hooks", "exit 0")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def core_filemode_false(ws: Workspace) -> None:
    ws.config("core.fileMode", "false")
    ws.append("a.txt")
    ws.chmod("a.txt", 0o755)
    ws.chmod("b.txt", 0o755)
    ws.write("untracked.sh", "#!/bin/sh\n", 0o755)
    ws.append("bin/run.sh", "echo more\n")
    ws.git("update-index", "--chmod=+x", "c.txt")
    ws.expect_exactly(" M a.txt", "M  c.txt", " M bin/run.sh", "?? untracked.sh")


@state(losses=LOCAL)
def core_symlinks_false(ws: Workspace) -> None:
    """Symlinks stand on the disk as small files."""
    ws.symlink("c.txt", "second")
    ws.commit("links")
    ws.config("core.symlinks", "false")
    for path in ("link", "second"):
        ws.remove(path)
        ws.git("checkout", "-q", "--", path)
    assert not os.path.islink(ws.at("link"))
    ws.write("link", "README.md")
    ws.append("a.txt")
    ws.expect_exactly(" M link", " M a.txt")


@state(losses=LOCAL)
def core_ignorecase_true(ws: Workspace) -> None:
    ws.config("core.ignoreCase", "true")
    dirty(ws)
    ws.write("Notes/Todo.txt", "another directory than notes\n")
    ws.expect_exactly(*DIRTY, "?? Notes/Todo.txt")


@state(losses=HERE, may_leave_out=["NEW.TXT"], save_exits=[0, 4])
def core_ignorecase_hides_a_file(ws: Workspace) -> None:
    """On a file system that does tell the two apart, git shows only one of them."""
    ws.config("core.ignoreCase", "true")
    dirty(ws)
    ws.write("NEW.TXT", "another file than new.txt\n")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def shared_repository(ws: Workspace) -> None:
    ws.config("core.sharedRepository", "group")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def fsync_everything(ws: Workspace) -> None:
    ws.config("core.fsync", "all")
    ws.config("core.fsyncMethod", "batch")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


def leak(ws: Workspace, *names: str) -> None:
    """Another repository's variables are in the environment, as inside of a hook."""
    other = ws.outside / "other"
    run_git(ws.outside, "init", "-q", other)
    (other / "theirs.txt").write_text("theirs\n")
    run_git(other, "add", "theirs.txt")
    run_git(other, "commit", "-q", "-m", "theirs")
    ws.bystanders.append(other)
    values = {
        "GIT_DIR": other / ".git",
        "GIT_COMMON_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git" / "index",
        "GIT_OBJECT_DIRECTORY": other / ".git" / "objects",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": other / ".git" / "objects",
        "GIT_NAMESPACE": "theirs",
        "GIT_PREFIX": "src/",
        "GIT_QUARANTINE_PATH": other / ".git" / "objects",
        "GIT_SHALLOW_FILE": "/dev/null",
        "GIT_GRAFT_FILE": "/dev/null",
        "GIT_REPLACE_REF_BASE": "refs/theirs/",
        "GIT_CEILING_DIRECTORIES": ws.path.parent,
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ICASE_PATHSPECS": "1",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_INTERNAL_SUPER_PREFIX": "sub/",
        "GIT_CONFIG": "/dev/null",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": other,
        "GIT_CONFIG_PARAMETERS": "'core.bare'='true'",
        "GIT_OPTIONAL_LOCKS": "1",
        "GIT_TRACE": "1",
        "GIT_TRACE2_EVENT": ws.outside / "trace",
        "GIT_FLUSH": "0",
        "GIT_REFLOG_ACTION": "commit (amend)",
        "GIT_AUTHOR_DATE": "nonsense",
        "GIT_COMMITTER_DATE": "nonsense",
        "GIT_AUTHOR_NAME": "",
        "GIT_COMMITTER_EMAIL": "",
        "GIT_TEST_FSYNC": "0",
        "GIT_EDITOR": ws.canary("editor"),
        "GIT_SEQUENCE_EDITOR": ws.canary("editor"),
        "GIT_PAGER": ws.canary("pager"),
        "GIT_ASKPASS": ws.canary("askpass"),
        "SSH_ASKPASS": ws.canary("askpass"),
        "GIT_EXTERNAL_DIFF": ws.canary("diff"),
        "GIT_SSH_COMMAND": ws.canary("ssh"),
        "GIT_PROXY_COMMAND": ws.canary("proxy"),
        "GIT_ATTR_NOSYSTEM": "1",
        "CDPATH": ws.outside,
        "IFS": "/",
        "LC_ALL": "de_DE.UTF-8",
        "LANGUAGE": "de",
        "POSIXLY_CORRECT": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONUTF8": "0",
        "COLUMNS": "20",
        "TZ": "Asia/Kathmandu",
    }
    ws.cli_env = {name: str(value) for name, value in values.items() if not names or name in names}
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def leaked_git_dir(ws: Workspace) -> None:
    leak(ws, "GIT_DIR", "GIT_WORK_TREE")


@state(losses=LOCAL)
def leaked_git_index_file(ws: Workspace) -> None:
    leak(ws, "GIT_INDEX_FILE")


@state(losses=LOCAL)
def leaked_git_object_directory(ws: Workspace) -> None:
    leak(ws, "GIT_OBJECT_DIRECTORY")


@state(losses=LOCAL, quick=LOCAL, linked=True)
def leaked_environment(ws: Workspace) -> None:
    leak(ws)


@state(losses=LOCAL)
def inside_a_hook_of_the_same_repository(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_env = {"GIT_DIR": ".git", "GIT_INDEX_FILE": ".git/index", "GIT_PREFIX": "", "GIT_WORK_TREE": "."}


@state(losses=LOCAL)
def locale_c(ws: Workspace) -> None:
    _names(ws, b"caf\xe9", "\u00fcber", "\u6f22\n")
    ws.cli_env = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ws.cli_env |= {"PYTHONIOENCODING": "ascii"}


@state(quick=HERE | {Loss.REMOVED})
def umask_077(ws: Workspace) -> None:
    _modes(ws, 0o644)
    ws.write("open.sh", "#!/bin/sh\n", 0o755)
    ws.mkdir("open-directory", 0o755)
    ws.cli_umask = 0o077


@state()
def umask_000(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_umask = 0


@state(losses=HERE | {Loss.REMOVED})
def reached_through_a_symlink(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_path = ws.outside / "way in"
    ws.cli_path.symlink_to(ws.path)


@state(directory="re po 'x'\n\u00fc $(touch pwned)", quick=EVERYWHERE, linked=True)
def odd_path_of_the_workspace(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.canaries += [ws.path / "pwned", ws.outside / "pwned"]


@state(directory="-rf")
def path_of_the_workspace_with_dash(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(directory=os.fsdecode(b"caf\xe9"))
def path_of_the_workspace_not_utf8(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)


# --------------------------------------------------------------------------------------------------------------------
# What is no file, can't be read, or is large
# --------------------------------------------------------------------------------------------------------------------


@state(losses=HERE | {Loss.REMOVED}, left_out=["fifo", "fresh/fifo"])
def fifo(ws: Workspace) -> None:
    os.mkfifo(ws.at("fifo"))
    ws.write("fresh/file.txt")
    os.mkfifo(ws.at("fresh/fifo"))
    dirty(ws)
    ws.expect(*DIRTY)


@state(losses=HERE | {Loss.REMOVED}, left_out=["socket"])
def unix_socket(ws: Workspace) -> None:
    os.mknod(ws.at("socket"), stat.S_IFSOCK | 0o600)
    dirty(ws)
    ws.expect(*DIRTY)


@state(losses=HERE | {Loss.REMOVED}, left_out=["a.txt"], status_says_more=True)
def fifo_where_a_tracked_file_was(ws: Workspace) -> None:
    ws.remove("a.txt")
    os.mkfifo(ws.at("a.txt"))
    ws.append("b.txt")
    ws.expect(" M b.txt")


@state(
    losses=HERE,
    left_out=["secret.txt", "b.txt"],
    save_exits=[4],
    recover_exits=[0, 4],
    status_says_more=True,
    why_not=why_permissions_cannot_be_tested,
)
def unreadable_files(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("secret.txt", "secret\n", 0)
    ws.append("b.txt")
    ws.chmod("b.txt", 0)
    ws.write("untracked.txt")
    ws.without_override = True
    ws.expect(" M a.txt", "?? secret.txt")


@state(
    losses=HERE,
    left_out=["locked"],
    save_exits=[0, 4],
    recover_exits=[0, 4],
    status_says_more=True,
    why_not=why_permissions_cannot_be_tested,
)
def unreadable_directory(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("locked/inner.txt")
    ws.chmod("locked", 0)
    ws.without_override = True
    ws.expect(" M a.txt")


@state(
    losses=HERE,
    may_leave_out=["locked"],
    save_exits=(0, 4),
    recover_exits=(0, 4),
    why_not=why_permissions_cannot_be_tested,
)
def unreadable_directory_of_tracked_files(ws: Workspace) -> None:
    ws.write("locked/inner.txt")
    ws.commit("locked")
    ws.append("a.txt")
    ws.chmod("locked", 0)
    ws.without_override = True
    ws.expect(" M a.txt")


@state(quick=EVERYWHERE)
def odd_contents(ws: Workspace) -> None:
    ws.write("nothing.txt", "")
    ws.write("a.txt", "")
    ws.write("empty.txt", "no longer\n")
    ws.write("nul.bin", b"a\0b\0\0")
    ws.write("no-newline.txt", "no newline")
    ws.write("looks-like-a-blob", b"blob 3\0abc")
    ws.write("conflict-markers.txt", "<<<<<<< HEAD\n=======\n>>>>>>> x\n")
    ws.write("data.bin", os.urandom(50_000))
    ws.expect(" M a.txt", " M empty.txt", "?? nul.bin")


@state()
def huge_line(ws: Workspace) -> None:
    ws.write("line.txt", "x" * 5_000_000)
    ws.append("a.txt", "y" * 1_000_000)
    ws.expect_exactly("?? line.txt", " M a.txt")


@state()
def large_file_20_mb(ws: Workspace) -> None:
    ws.write("large.bin", os.urandom(20_000_000))
    ws.append("a.txt")
    ws.expect_exactly("?? large.bin", " M a.txt")


@state(slow=True, losses=HERE | {Loss.REMOVED})
def large_file_200_mb(ws: Workspace) -> None:
    with open(ws.at("large.bin"), "wb") as file:
        for _ in range(200):
            file.write(os.urandom(1_000_000))
    ws.append("a.txt")
    ws.expect_exactly("?? large.bin", " M a.txt")


def _many(ws: Workspace, count: int) -> None:
    for number in range(count):
        ws.write(f"many/{number % 100}/{number}.txt", f"{number}\n")
    ws.append("a.txt")


@state()
def untracked_files_3000(ws: Workspace) -> None:
    _many(ws, 3_000)


@state(slow=True, losses=HERE | {Loss.REMOVED})
def untracked_files_30000(ws: Workspace) -> None:
    _many(ws, 30_000)
