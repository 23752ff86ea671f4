"""`init`, `completion` and `manual`: what a shell evaluates, and what `man` shows (roff, `man 7 man`).

Completion and the page are made from what the command line knows about itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import click

from ... import __version__
from ...errors import EXIT_DONE, EXIT_STATUSES, UsageError
from ...format import names
from ..command import Call, command, echo, print_lines
from ..reference import describe_commands, describe_options

#: `git gitstate <TAB>`: git's own completion calls a function of this name. The words before `gitstate` are git's.
_FOR_GIT = {
    "bash": """
_git_gitstate() {
    local at=1 response kind value
    while [ "$at" -lt "$COMP_CWORD" ] && [ "${COMP_WORDS[at]}" != gitstate ]; do at=$((at + 1)); done
    response=$(env COMP_WORDS="${COMP_WORDS[*]:at}" COMP_CWORD=$((COMP_CWORD - at)) \\
        _GITSTATE_COMPLETE=bash_complete gitstate)
    COMPREPLY=()
    while IFS=, read -r kind value; do
        [ "$kind" = plain ] && COMPREPLY+=("$value")
    done <<<"$response"
    return 0
}
""",
    "zsh": """
_git-gitstate() { _gitstate_completion; }
""",
    "fish": """
function _git_gitstate_completion
    set -l words (string replace -r '^git\\s+' '' -- (commandline -cp))
    for line in (env _GITSTATE_COMPLETE=fish_complete COMP_WORDS="$words" COMP_CWORD=(commandline -t) gitstate)
        string split -m 1 , -- $line | tail -n 1
    end
end
complete --no-files --command git --condition '__fish_seen_subcommand_from gitstate' \\
    --arguments '(_git_gitstate_completion)'
""",
}
#: The shells that have a library, which is one text.
_LIBRARIES = ("bash", "zsh")
#: How a shell evaluates the library: another one does not parse it. In zsh its functions keep the options of now.
_WRAPPED = """\
_gitstate_library={library}
if [ -n "${{ZSH_VERSION-}}" ]; then
  emulate -R ksh -o noaliases -o nolocaltraps -c "unset _gitstate_library; _gitstate_emulated=1
$_gitstate_library"
elif [ -n "${{BASH_VERSION-}}" ]; then
  eval "unset _gitstate_library
$_gitstate_library"
else
  unset _gitstate_library
  echo 'gitstate: the shell library needs bash or zsh; elsewhere use: gitstate run -- COMMAND' >&2
  false
fi
"""
#: What the manual page says first, and of files.
_SUMMARY = "save what an agent was doing into git, and bring it back"
_FILES = (
    ("active_state.json", "in the root of the workspace: what the last run was doing; git ignores it"),
    (names.SAVES, "every save, until it is pruned"),
    (names.PENDING, "the pending save of each workspace"),
    (names.CHECKPOINTS, "the latest checkpoint of each workspace"),
    (names.HISTORY, "earlier checkpoints of each workspace, thinned out with their age"),
    (names.INSIDE, "what is held of repositories inside a workspace, to make them again"),
    (
        names.UNFINISHED,
        "repositories inside a workspace that a recovery could not bring back: the next one tries",
    ),
    (names.DISMISSED, "pending saves that were dismissed and not recovered: retention keeps them"),
    (names.NOTES, "the context of each save, for git log --notes=gitstate"),
)


@command("init", json=False)
@click.argument("shell", required=False, metavar="[bash|zsh]")
@click.option("--path", "shows_path", is_flag=True, help="print the directory of the library and of the complete loops")
def init(call: Call, shell: str | None, shows_path: bool) -> int:
    """The library has the traps and functions for a loop in bash or zsh. Scripts of other shells use `gitstate run`.
    The complete loops, one for an agent, are the files *-loop.sh in the directory that --path prints.
    """
    import os

    from ...system.child import shipped

    if shows_path:
        from ... import __file__ as package

        print_lines([os.path.join(os.path.dirname(os.path.abspath(package)), "hooks")])
        return EXIT_DONE
    if shell is None:
        mine = os.path.basename(os.environ.get("SHELL", ""))
        raise UsageError("which shell?", hint=f'eval "$(gitstate init {mine if mine in _LIBRARIES else "bash"})"')
    if shell not in _LIBRARIES:
        message = f"the shell library needs bash or zsh; there is none for {shell[:40]}"
        raise UsageError(message, hint="gitstate run -- COMMAND (or: gitstate loop AGENT --tasks FILE)")

    library = _WRAPPED.format(library=shlex.quote(shipped("gitstate.bash").decode("utf-8")))
    if call.as_json:
        call.answer(shell=shell, library=library)
    else:
        echo(library, nl=False)
    return EXIT_DONE


@command("completion", json=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(call: Call, shell: str) -> int:
    """For bash: eval "$(gitstate completion bash)". Names of saves, keys and remotes are completed too, and all of it
    for `git gitstate`, where the shell completes git.
    """
    from click.shell_completion import get_completion_class

    from ..main import group

    kind = get_completion_class(shell)
    assert kind is not None
    echo(kind(group, {}, "gitstate", "_GITSTATE_COMPLETE").source() + _FOR_GIT[shell])
    return EXIT_DONE


@command("manual", json=False)
def manual(_: Call) -> int:
    """Packagers put it where `man gitstate` finds it."""
    echo(page(), nl=False)
    return EXIT_DONE


def page() -> str:
    """The whole page."""
    from ..main import group

    lines = [
        f'.TH GIT\\-GITSTATE 1 "" "gitstate {_roff(__version__)}" "Git Manual"',
        ".SH NAME",
        f"git\\-gitstate, gitstate \\- {_roff(_SUMMARY)}",
        ".SH SYNOPSIS",
        ".B gitstate",
        "[\\fB\\-C\\fR \\fIPATH\\fR] [\\fB\\-\\-json\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".br",
        ".B git gitstate",
        "\\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".SH DESCRIPTION",
        _roff(group.help or ""),
        ".SH OPTIONS",
        *_items("B", describe_options(group, click.Context(group))),
        ".SH COMMANDS",
    ]
    for described in describe_commands(group):
        lines += [
            f".SS {_roff(described.usage)}",
            _roff(f"{described.summary}. {described.details}"),
            *_items("B", described.options),
        ]
    lines += [".SH EXIT STATUS", *_items("B", EXIT_STATUSES), ".SH FILES", *_items("I", _FILES)]
    lines += [".SH SEE ALSO", ".BR git (1),", ".BR git\\-notes (1),", ".BR git\\-worktree (1)"]
    return "\n".join(lines) + "\n"


def _items(font: str, items: Iterable[tuple[str, str]]) -> list[str]:
    """Paragraphs with a tag: the first text of each item in `font`, the second below it."""
    return [line for tag, text in items for line in (".TP", f".{font} {_roff(tag)}", _roff(text))]


def _roff(text: str) -> str:
    """Text that roff prints as it is: no request at the start of a line, hyphens as they are typed, only ASCII."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    for character, escape in (("…", "..."), ("'", "\\(aq"), ("`", "\\(ga")):
        escaped = escaped.replace(character, escape)
    return "\\&" + escaped if escaped.startswith(".") else escaped
