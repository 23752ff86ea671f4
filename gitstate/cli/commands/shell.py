"""`init` and `completion`: what a shell evaluates."""

from __future__ import annotations

import click

from ...errors import EXIT_DONE, UsageError
from ..command import Call, command


@command("init", json=False)
@click.argument("shell", metavar="bash")
def init(call: Call, shell: str) -> int:
    """The library has the traps and functions for a loop in bash. Scripts of other shells use `gitstate run`."""
    from ...system.program import shipped

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
    """For bash: eval "$(gitstate completion bash)"."""
    from click.shell_completion import get_completion_class

    from ..main import group

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(group, {}, "gitstate", "_GITSTATE_COMPLETE").source())
    return EXIT_DONE
