"""`init` and `completion`: what a shell evaluates."""

from __future__ import annotations

import click

from ...errors import EXIT_DONE, UsageError
from ..command import Call, command, print_lines

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


@command("init", json=False)
@click.argument("shell", required=False, metavar="[bash]")
@click.option("--path", "shows_path", is_flag=True, help="print the directory of the library and of the complete loops")
def init(call: Call, shell: str | None, shows_path: bool) -> int:
    """The library has the traps and functions for a loop in bash. Scripts of other shells use `gitstate run`. The
    complete loops, one for an agent, are the files *-loop.sh in the directory that --path prints.
    """
    import os

    from ...system.program import shipped

    if shows_path:
        from ... import __file__ as package

        print_lines([os.path.join(os.path.dirname(os.path.abspath(package)), "hooks")])
        return EXIT_DONE
    if shell is None:
        raise UsageError("which shell?", hint='eval "$(gitstate init bash)"')
    if shell != "bash":
        message = f"the shell library needs bash; there is none for {shell[:40]}"
        raise UsageError(message, hint="gitstate run -- COMMAND (or: gitstate loop AGENT --tasks FILE)")

    library = shipped("gitstate.bash").decode("utf-8")
    if call.as_json:
        call.emit(shell=shell, library=library)
    else:
        click.echo(library, nl=False)
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
    click.echo(kind(group, {}, "gitstate", "_GITSTATE_COMPLETE").source() + _FOR_GIT[shell])
    return EXIT_DONE
