"""Time `gitstate save` beside what git itself offers, each as a whole process. README.md says how to read it."""

from __future__ import annotations

import argparse
import functools
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from place import BenchError, add_arguments, progress, publish, ratio, spread, work_place

SETTLE = 0.05  # seconds; longer than a file system's clock tick, so that no index entry is as young as its index
ADD_AND_COMMIT = 'git -C "$1" add -A && git -C "$1" commit -q -m wip'


@functools.cache
def prose() -> bytes:
    """Return a megabyte of lines that compress about as well as source code."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu_", k=rng.randint(2, 11))) for _ in range(2000)]
    return b"".join(b" ".join(w.encode() for w in rng.choices(words, k=8)) + b"\n" for _ in range(17_000))


def file_path(number: int) -> str:
    """Twenty files to a directory, ten directories to a directory, as many areas as it takes."""
    area, part, unit = number // 2000, number // 200 % 10, number // 20 % 10
    return f"src/area{area:03}/part{part}/unit{unit}/module{number % 20:02}.py"


def file_text(number: int) -> bytes:
    """Return a text of its own for every file; median 2 kB, with a long tail, like source code."""
    rng = random.Random(number)
    start = rng.randrange(len(prose()) - 100_000)
    return b"# %d\n" % number + prose()[start : start + min(100_000, int(rng.lognormvariate(7.6, 1.0)))]


@dataclass(frozen=True)
class Scenario:
    """One repository and what is changed in it."""

    files: int
    changed: int
    big_mb: int = 0

    @property
    def title(self) -> str:
        big = f" and one of {self.big_mb} MB" if self.big_mb else ""
        return f"{self.files:,} files, {self.changed} changed{big}"


@dataclass
class Repository:
    """A throw-away repository that can be brought back to the same dirty state as often as needed."""

    path: Path
    env: dict[str, str]
    scenario: Scenario
    whole_tree: str = ""  # the worktree with its untracked files
    tracked_tree: str = ""  # the worktree without them
    _status: str = ""
    _small: dict[Path, tuple[bytes, int]] = field(default_factory=dict)  # the clean .git but for objects: bytes, mtime
    _kept: set[Path] = field(default_factory=set)  # the objects and directories of the clean .git
    _written: dict[str, bytes] = field(default_factory=dict)
    _staged: list[str] = field(default_factory=list)
    _deleted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._choose_changes()
        self._build()
        self.remember()
        self.make_dirty()
        self._status = self._read_status()
        self.tracked_tree, self.whole_tree = self._tree_after_add("-u"), self._tree_after_add("-A")

    def git(self, *args: str, index: Path | None = None, given: str = "") -> str:
        env = self.env if index is None else self.env | {"GIT_INDEX_FILE": str(index)}
        command = ["git", "-C", str(self.path), *args]
        done = subprocess.run(command, env=env, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"git {' '.join(args[:3])}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def tree(self, revision: str) -> str:
        return self.git("rev-parse", "--verify", revision + "^{tree}")

    def make_dirty(self) -> None:
        """Undo whatever ran here, make the same changes again, and let them reach the disk."""
        self._restore_git_dir()
        self.git("clean", "-ffdxq")
        for name, text in self._written.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(text)
        for name in self._deleted:
            (self.path / name).unlink(missing_ok=True)
        if self.scenario.big_mb:
            (self.path / "big.bin").hardlink_to(self._big)  # the same pages in the cache every time
        time.sleep(SETTLE)
        if self._staged:
            # `git add` compares each path of the index with each that it is given.
            self.git("update-index", "-z", "--stdin", given="".join(f"{name}\0" for name in self._staged))
        os.sync()
        time.sleep(SETTLE)
        if self._status and self._read_status() != self._status:  # also warms the caches, equally for everybody
            raise BenchError("the dirty state could not be made the same again")

    def edited(self) -> list[str]:
        """The files that are written anew for the dirty state."""
        return list(self._written)

    @property
    def _big(self) -> Path:
        return self.path.with_name(self.path.name + ".big")

    def _choose_changes(self) -> None:
        """Of ten changes five are edits, two staged edits, one a deletion and two new files, one of them apart."""
        rng = random.Random(self.scenario.files)
        numbers = rng.sample(range(self.scenario.files), self.scenario.changed)
        for place, number in enumerate(numbers):
            kind, name = "eseuendese"[place % 10], file_path(number)
            if kind == "d":
                self._deleted.append(name)
            elif kind == "u":
                self._written[f"{name}.new.py"] = b"new\n" + file_text(number)
            elif kind == "n":
                self._written[f"notes/draft{place}/note.md"] = b"new\n" + file_text(number)
            else:
                self._written[name] = file_text(number) + b"an edit\n"
                if kind == "s":
                    self._staged.append(name)

    def _build(self) -> None:
        self.path.mkdir()
        self.git("init", "-q", "--template=")
        options = ["-c", "fastimport.unpackLimit=1", "-c", "core.compression=1"]
        command = ["git", "-C", str(self.path), *options, "fast-import", "--quiet", "--depth=0"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=self.env) as p:
            assert p.stdin is not None
            p.stdin.write(b"commit refs/heads/main\ncommitter B <b@example.invalid> 1700000000 +0000\ndata 4\nbase\n")
            for number in range(self.scenario.files):
                text = file_text(number)
                p.stdin.write(b"M 100644 inline %s\ndata %d\n%s\n" % (file_path(number).encode(), len(text), text))
        if p.returncode:
            raise BenchError("git fast-import failed")
        self.git("checkout", "-q", "-f", "main")
        if self.scenario.big_mb:
            rng = random.Random(1)
            with self._big.open("wb") as file:
                for _ in range(self.scenario.big_mb):
                    file.write(rng.randbytes(1 << 20))
        time.sleep(SETTLE)
        self.git("status")  # writes the index anew, so that it is younger than every entry

    def remember(self) -> None:
        """Take the .git as it is now for the clean one, which `make_dirty` begins with."""
        self._small, self._kept = {}, set()
        git_dir = self.path / ".git"
        for path in git_dir.rglob("*"):
            if path.is_dir() or path.is_relative_to(git_dir / "objects"):
                self._kept.add(path)
            else:
                self._small[path] = path.read_bytes(), path.stat().st_mtime_ns

    def _restore_git_dir(self) -> None:
        """Put HEAD, refs, logs, index and config back; only then does nothing need the objects that were added."""
        for directory in sorted(path for path in self._kept if not path.exists()):
            directory.mkdir()
        for path, (data, mtime) in self._small.items():
            if path.is_symlink():
                path.unlink()
            path.write_bytes(data)  # into the same inode: gitstate knows a workspace by that of its id
            os.utime(path, ns=(mtime, mtime))
        for name, directories, files in os.walk(self.path / ".git", topdown=False):
            for path in (Path(name, file) for file in files):
                if path not in self._kept and path not in self._small:
                    path.unlink()
            for path in (Path(name, directory) for directory in directories):
                if path not in self._kept:
                    path.rmdir()

    def _read_status(self) -> str:
        return self.git("--no-optional-locks", "status", "--porcelain=v2", "-z", "-uall")

    def _tree_after_add(self, option: str) -> str:
        index = self.path.with_name(self.path.name + ".index")
        shutil.copy2(self.path / ".git" / "index", index)  # with its mtime, or git would miss edits
        self.git("-c", "core.compression=0", "add", option, index=index)
        return self.git("write-tree", index=index)


@dataclass(frozen=True)
class Contender:
    """A command to time, and the proof that it did its work."""

    key: str
    title: str
    command: Callable[[Path], list[str]]
    proof: Callable[[Repository, str], bool]

    def time(self, repository: Repository, env: dict[str, str]) -> float:
        """Return the milliseconds from starting the command to its end, from the same dirty state every time."""
        repository.make_dirty()
        command = self.command(repository.path)
        with tempfile.TemporaryFile() as output:  # not a pipe: a child in the background could hold that open
            start = time.perf_counter_ns()
            process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            status = process.wait()
            elapsed = time.perf_counter_ns() - start
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        if status or not self.proof(repository, said):
            unsaved = "" if status else ", but what was on disk is not what it saved"
            raise BenchError(f"{shlex.join(command)}: exit status {status}{unsaved}: {said[-2000:]}")
        return elapsed / 1e6


def is_saved(repository: Repository, _: str) -> bool:
    markers = repository.git("for-each-ref", "--format=%(objectname)", "refs/gitstate/pending").split()
    return len(markers) == 1 and repository.tree(f"{markers[0]}^1") == repository.whole_tree


def contenders(gitstate: Sequence[str], save_args: Sequence[str]) -> list[Contender]:
    def git(*args: str) -> Callable[[Path], list[str]]:
        return lambda path: ["git", "-C", str(path), *args]

    return [
        Contender("save", "gitstate save", lambda p: [*gitstate, "-C", str(p), "save", *save_args], is_saved),
        Contender(
            "stash-push",
            "git stash push -u",
            git("stash", "push", "-u"),
            lambda r, _: r.tree("refs/stash") == r.tracked_tree and not r.git("status", "--porcelain"),
        ),
        Contender(
            "stash-synced",
            "git -c core.fsync=all stash push -u",
            git("-c", "core.fsync=all", "stash", "push", "-u"),
            lambda r, _: r.tree("refs/stash") == r.tracked_tree and not r.git("status", "--porcelain"),
        ),
        Contender(
            "stash-create",
            "git stash create",
            git("stash", "create"),
            lambda r, said: r.tree(said) == r.tracked_tree,
        ),
        Contender(
            "commit",
            "git add -A && git commit",
            lambda p: ["sh", "-c", ADD_AND_COMMIT, "sh", str(p)],
            lambda r, _: r.tree("HEAD") == r.whole_tree,
        ),
        Contender("status", "git status", git("status"), lambda _, said: "branch main" in said),
    ]


Times = dict[str, list[float]]  # by the contender's key, one number for each round


def measure(repository: Repository, chosen: Sequence[Contender], runs: int, env: dict[str, str]) -> Times:
    times: Times = {contender.key: [] for contender in chosen}
    for turn in range(runs + 1):
        first = turn % len(chosen)
        for contender in [*chosen[first:], *chosen[:first]]:
            elapsed = contender.time(repository, env)
            if turn:  # the first round only warms up
                times[contender.key].append(elapsed)
        progress(f"  round {turn} of {runs}")
    return times


def table(results: Sequence[tuple[Scenario, Times]], chosen: Sequence[Contender]) -> str:
    rows = [["", *(scenario.title for scenario, _ in results)], ["---", *("---:" for _ in results)]]
    for contender in chosen:
        rows.append([f"`{contender.title}`, ms", *(spread(times[contender.key]) for _, times in results)])
    for peer in chosen:
        if peer.key != "save" and any(contender.key == "save" for contender in chosen):
            pairs = [ratio(times["save"], times[peer.key]) for _, times in results]
            rows.append([f"gitstate ÷ `{peer.title}`", *pairs])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def sizes(text: str) -> list[int]:
        return [int(word) for word in text.split(",") if word]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=sizes, default=[200, 10_000, 100_000], help="tracked files (200,10000,100000)")
    parser.add_argument("--changed", type=int, default=50, help="changes in each repository (50)")
    parser.add_argument("--big-mb", type=int, default=200, help="size of the one large file; 0: none (200)")
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one to warm up (5)")
    parser.add_argument("--save-args", default="", metavar="ARGS", help="more for the save: --save-args=--json")
    parser.add_argument("--only", metavar="KEYS", help="of save,stash-push,stash-synced,stash-create,commit,status")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there, too")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.runs < 1 or args.changed < 1 or any(size < args.changed for size in args.sizes):
        parser.error("--runs and --changed must be at least 1, and no size smaller than --changed")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    keys = [contender.key for contender in contenders([], [])]
    wanted = set(args.only.split(",")) if args.only else set(keys)
    if not wanted <= set(keys):
        progress(f"--only takes {','.join(keys)}")
        return 2
    scenarios = [Scenario(size, args.changed) for size in args.sizes]
    if args.big_mb:
        scenarios.append(Scenario(max(200, args.changed), args.changed, args.big_mb))
    results: list[tuple[Scenario, Times]] = []
    failed = False
    with work_place(args) as place:
        chosen = [one for one in contenders(place.gitstate, shlex.split(args.save_args)) if one.key in wanted]
        for number, scenario in enumerate(scenarios):
            progress(f"{scenario.title}: building")
            where = place.top / f"repository{number}"
            try:
                results.append(
                    (scenario, measure(Repository(where, place.env, scenario), chosen, args.runs, place.env))
                )
            except (BenchError, OSError) as error:
                progress(f"{scenario.title}: {error}")
                failed = True
            shutil.rmtree(where, ignore_errors=True)
    if results:
        report = f"{place.headline(args.runs)}{table(results, chosen)}\n"
        publish(report, "save", args)
        if args.markdown:
            args.markdown.write_text(report, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
