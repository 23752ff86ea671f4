"""Whether a shell command destroys files, as far as its text tells. Pure, and linear in the command's length.

It errs to both sides on purpose: a needless checkpoint costs little, and of an unknown program nothing is assumed. `cp`
and `sed -i` write what comes next, and count as edits; a redirection (`> file`) empties the file before anything runs.
"""

from __future__ import annotations

from itertools import islice, pairwise

from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Of a longer command only so much is looked at, in characters, and no deeper than so many shells within shells.
_LONGEST, _DEEPEST = 1 << 18, 8
#: No more substitutions within each other than this.
_NESTED = 64
#: Of one simple command no more words are looked at, and of `find` no more commands.
_WORDS, _COMMANDS = 1_000, 10
#: No more words are taken for paths.
_PATHS = 20_000

_VERBS = frozenset(("rm", "unlink", "shred", "srm", "wipe", "truncate", "mv"))
_SHELLS = frozenset(("su", "sh", "bash", "dash", "zsh", "ksh", "ash", "fish"))
#: What runs the command that stands behind its own options.
_WRAPPERS = frozenset(
    (
        *("sudo", "doas", "env", "command", "builtin", "exec", "nohup", "time", "timeout", "nice", "ionice", "stdbuf"),
        *("setsid", "xargs", "parallel", "busybox", "chronic", "watch", "strace", "unbuffer", "script", "flock"),
        *("taskset", "unshare", "chroot", "bwrap", "firejail", "uv", "poetry", "npx", "coproc", "function"),
    )
)
_FIND_RUNS = ("-exec", "-execdir", "-ok", "-okdir")
_KEYWORDS = frozenset(("if", "then", "elif", "else", "while", "until", "do", "!", "{", "}", "time", "fi", "done"))
_OPERATORS = ";&|\n"
#: What is not read as a shell reads it: comments, heredocs, patterns of `case`, functions, traps, odd assignments.
_UNREAD = ("#", "<<", "case", "()", "trap", "+=", "]=", "$'")
#: Where one of those stands, each of these words counts as a command.
_MENTIONED = _VERBS | {"rsync", "dd", "ln"}
_GIT_MENTIONED = frozenset(
    (
        *("reset", "clean", "checkout", "restore", "stash", "switch", "rm", "worktree", "read-tree"),
        "sparse-checkout",
    )
)


def destroys(command: str) -> bool:
    """Whether a command line of a shell may unlink, move, replace or empty files that it did not just write."""
    text = command[:_LONGEST]
    return _destroys(text, 0) or (any(sign in text for sign in _UNREAD) and _mentions(text))


def _mentions(text: str) -> bool:
    """Whether the name of a destroying command stands anywhere in a text."""
    words = set("".join(c if c.isalnum() or c in "-_" else " " for c in text).split())
    git = "git" in words and bool(words & _GIT_MENTIONED)
    return git or bool(words & _MENTIONED) or ("find" in words and "-delete" in words)


def emptied(command: str) -> list[str]:
    """The files that redirections of a command line empty, as they are named there; also below where it goes first."""
    found: list[str] = []
    for words, places in _commands_and_places(command):
        targets: list[str] = []
        for place, word in enumerate(words):
            _, arrow, target = word.partition(">")
            if not arrow or target.startswith((">", "&", "(")):
                continue
            targets.append(target or (words[place + 1] if place + 1 < len(words) else ""))
        found += [place + target for target in targets if target for place in places]
    return found[:_WORDS]


def checked_out(command: str) -> list[str]:
    """What `git checkout` is given that may be a branch or a path, as `emptied` names it: git looks which it is."""
    found: list[str] = []
    for words, places in _commands_and_places(command):
        if "git" not in words:
            continue
        arguments = words[words.index("git") + 1 :]
        verb, rest = _verb_of_git(arguments)
        if verb == "checkout" and len(rest) == 1:
            there = [after.rstrip("/") + "/" for word, after in pairwise(arguments) if word == "-C"]
            found += [place + below + rest[0] for below in ("", *there) for place in places]
    return found[:_WORDS]


def _commands_and_places(command: str) -> Iterator[tuple[list[str], list[str]]]:
    """The words of each simple command, and the places it may be in: where the line begins, and where it goes first."""
    places = [""]
    for words in _simple_commands(command[:_LONGEST]):
        words = words[:_WORDS]
        if len(words) > 1 and words[0] == "cd" and len(places) < _COMMANDS:
            places.append(words[1].removesuffix("/") + "/")
        yield words, places


def named_paths(command: str) -> list[str]:
    """The paths that a command line may name, also below where it goes.

    Any word may be a path up to the directory that a pattern or a variable stands in, or have one as its value.
    """
    return list(dict.fromkeys(islice(_named(command[:_LONGEST], 0), _PATHS)))


def _named(text: str, depth: int) -> Iterator[str]:
    places = [""]
    for words in _simple_commands(text):
        words = words[:_WORDS]
        for word in words:
            if depth < _DEEPEST and any(char.isspace() for char in word):
                # The command of another shell, as a rule.
                yield from (_join(place, path) for path in _named(word, depth + 1) for place in places)
            for path in {word, word.rpartition("=")[2]}:
                yield from (_join(place, _fixed_part(path)) for place in places)
        if len(words) > 1 and words[0] in ("cd", "pushd") and len(places) < _COMMANDS:
            places.append(_join(places[-1], _fixed_part(words[1])))


def _join(place: str, path: str) -> str:
    return path if path.startswith(("/", "~")) or not place else f"{place.rstrip('/') or '/'}/{path}"


def _fixed_part(path: str) -> str:
    """A path up to the directory that a pattern or a variable stands in."""
    end = next((place for place, char in enumerate(path) if char in "*?[{$"), None)
    return path if end is None else path[:end].rpartition("/")[0] or ("/" if path.startswith("/") else "")


def _destroys(text: str, depth: int) -> bool:
    return any(_is_destroying(words, depth) for words in _simple_commands(text))


class _Level:
    """A command list that is being read: that of the line, of a subshell or of a substitution."""

    def __init__(self, closes: str) -> None:
        self.closes = closes
        self.words: list[str] = []
        self.word: list[str] | None = None
        self.is_quoted = False

    def add(self, text: str) -> None:
        if self.word is None:
            self.word = []
        self.word.append(text)

    def end_word(self) -> None:
        if self.word is not None:
            self.words.append("".join(self.word))
            self.word = None

    def end_command(self) -> list[str]:
        self.end_word()
        words, self.words = self.words, []
        return words


def _simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command, those of substitutions and subshells too; quotes need not be balanced."""
    levels = [_Level("")]
    place, end = 0, len(text)
    while place < end:
        char, level = text[place], levels[-1]
        place += 1
        if char == level.closes and not level.is_quoted:
            yield level.end_command()
            levels.pop()
        elif char == "\\":
            # An escaped line end is none.
            if text[place : place + 1] != "\n":
                level.add(text[place : place + 1])
            place += 1
        elif char == '"':
            level.is_quoted = not level.is_quoted
            level.add("")
        elif text.startswith("$(", place - 1) or char == "`" or (char == "(" and not level.is_quoted):
            place += char == "$"
            level.add("")
            if len(levels) < _NESTED:
                levels.append(_Level("`" if char == "`" else ")"))
        elif level.is_quoted:
            level.add(char)
        elif char == "'":
            close = text.find("'", place)
            close = end if close < 0 else close
            level.add(text[place:close])
            place = close + 1
        elif char == "|" and level.word is not None and level.word[-1] == ">":
            # `>|` empties a file whatever the shell's settings.
            continue
        elif char in _OPERATORS:
            yield level.end_command()
        elif char.isspace():
            level.end_word()
        else:
            level.add(char)
    for level in levels:
        yield level.end_command()


def _is_destroying(words: Sequence[str], depth: int) -> bool:
    """Whether a simple command destroys: the words that stand before its name are passed over."""
    words = words[:_WORDS]
    start = 0
    while start < len(words) and (
        words[start] in _KEYWORDS or _is_assignment(words[start]) or _redirects(words[start])
    ):
        # The name of its file may be the next word.
        start += 2 if words[start][-1:] in ("<", ">") else 1
    if start >= len(words):
        return False
    name = words[start].rpartition("/")[2]
    if name in _WRAPPERS:
        # Which of the words are values of its options is not known: each may be the command.
        return any(_is_command(words[place:], depth) for place in range(start + 1, len(words)))
    return _is_command(words[start:], depth)


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def _redirects(word: str) -> bool:
    return word.lstrip("0123456789&")[:1] in ("<", ">") and bool(word)


def _is_command(words: Sequence[str], depth: int) -> bool:
    name, arguments = words[0].rpartition("/")[2], words[1:]
    if name in _VERBS:
        return not {"--help", "--version"} & set(arguments)
    if name in _SHELLS:
        return _runs_destroying(arguments, depth)
    if name == "eval":
        return depth < _DEEPEST and _destroys(" ".join(arguments), depth + 1)
    if name == "git":
        return _is_destroying_git(arguments, depth)
    if name == "find":
        places = [place for place, word in enumerate(arguments) if word in _FIND_RUNS][:_COMMANDS]
        runs = depth < _DEEPEST and any(_is_destroying(arguments[place + 1 :][:8], depth + 4) for place in places)
        return "-delete" in arguments or runs
    if name == "dd":
        return any(word.startswith("of=") for word in arguments)
    if name == "rsync":
        return any(word.startswith(("--del", "--remove-source-files")) for word in arguments)
    if name == "ln":
        return any(
            _is_short_for(word, "--force") or (word[:1] == "-" != word[1:2] and "f" in word) for word in arguments
        )
    return False


def _runs_destroying(arguments: Sequence[str], depth: int) -> bool:
    """Whether a shell is told to run such a command: `sh -c TEXT`, `bash -lc TEXT`."""
    for place, word in enumerate(arguments[:-1]):
        if word[:1] == "-" and word[1:2] != "-" and "c" in word:
            text = next((other for other in arguments[place + 1 :] if other[:1] != "-"), "")
            return depth < _DEEPEST and _destroys(text, depth + 1)
    return False


#: Options of git itself that have a value in the next word.
_GIT_VALUED = ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--super-prefix", "--config-env")
#: What leaves the worktree alone: `git stash list`, for one.
_STASH_KEEPS = ("list", "show", "apply", "pop", "branch", "create", "store", "export", "import")
#: What removes a directory outside of the patterns with the ignored files in it; `clean` (git 2.52) with all files.
_SPARSE_REMOVES = (["clean"], ["set"], ["reapply"], ["init"])


def _verb_of_git(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command of git in the words behind `git`, and what it is given; an empty one where there is none."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        place += 2 if arguments[place] in _GIT_VALUED else 1
    return (arguments[place], list(arguments[place + 1 :])) if place < len(arguments) else ("", [])


def _is_short_for(option: str, *names: str) -> bool:
    """Whether an option is a long one, or its beginning: git and others take that where it names one alone."""
    return option.startswith("--") and len(option) > 2 and any(name.startswith(option) for name in names)


def _is_destroying_git(arguments: Sequence[str], depth: int) -> bool:
    verb, rest = _verb_of_git(arguments)
    options = {word.partition("=")[0] for word in rest if word.startswith("-")}
    short = "".join(word[1:] for word in options if word[1:2] != "-")
    plain = [word for word in rest if not word.startswith("-")]

    def has(*names: str) -> bool:
        return any(option in names or _is_short_for(option, *names) for option in options)

    if verb == "reset":
        return has("--hard", "--merge", "--keep")
    if verb == "clean":
        return "n" not in short and not has("--dry-run")
    if verb == "checkout":
        makes = has("-b", "-B", "--orphan", "-t", "--track")
        names_path = "--" in rest or len(plain) > 1 or any("." in word for word in plain) or has("--pathspec-from-file")
        # `--merge` mixes the local changes with those of the other branch.
        forces = "f" in short or "m" in short or has("--force", "--ours", "--theirs", "--merge")
        return forces or (names_path and not makes)
    if verb == "restore":
        return not has("--staged", "-S") or has("--worktree", "-W") or "W" in short
    if verb == "stash":
        return not plain or plain[0] not in _STASH_KEEPS
    if verb == "switch":
        return "f" in short or "m" in short or has("--force", "--discard-changes", "--merge")
    if verb == "worktree":
        return plain[:1] in (["remove"], ["move"])
    if verb == "sparse-checkout":
        return plain[:1] in _SPARSE_REMOVES and not has("--dry-run", "-n")
    if verb == "rm":
        return not has("--cached", "--dry-run", "-n")
    if verb == "mv":
        return "f" in short or has("--force")
    if verb in ("read-tree", "checkout-index"):
        return "u" in short or "f" in short or has("--reset", "--force")
    if verb in ("merge", "rebase", "cherry-pick", "revert", "am"):
        return has("--abort", "--quit", "--skip")
    if verb == "submodule" and plain[:1] == ["foreach"]:
        told = rest[rest.index("foreach") + 1 :]
        while told and told[0].startswith("-"):
            del told[0]
        return depth < _DEEPEST and _destroys(" ".join(told), depth + 1)
    if verb == "submodule":
        return plain[:1] in (["deinit"], ["update"]) and ("f" in short or has("--force"))
    return False
