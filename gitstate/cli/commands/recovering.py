"""`recover` and `status` for click: their options, their help, and every error of usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, EXIT_PERSON
from ...system.terminal import escape
from .. import quick, recovering
from ..command import (
    Call,
    Seconds,
    command,
    complete_saves,
    everything_option,
    paths_argument,
    print_lines,
    roots_option,
)

if TYPE_CHECKING:
    from ...history.verify import Proof


@command("recover")
@paths_argument
@everything_option
@roots_option
@click.option("--worktrees", is_flag=True, help="this repository's worktrees, with saved ones that are gone")
@click.option("--dry-run", is_flag=True, help="report what would happen, change nothing")
@click.option("--overwrite", is_flag=True, help="overwrite files that were edited after the save")
@click.option("--into", metavar="PATH", help="restore a save whose workspace is gone into a new worktree")
@click.option(
    "--save",
    "save_id",
    metavar="SAVE",
    shell_complete=complete_saves,
    help="recover this save instead of the pending one",
)
@click.option("--trust", is_flag=True, help="take a fetched save although it could run programs")
@click.option("--special-bits", is_flag=True, help="set the setuid, setgid and sticky bits that files had")
@click.option("--dismiss", is_flag=True, help="mark the pending save as resolved, touching no file")
@click.option(
    "--wait",
    type=Seconds(0),
    metavar="SECONDS",
    help="wait this long for another gitstate  [default: 60; for many workspaces 5]",
)
@click.option("--format", "style", type=click.Choice(["text", "json", "shell"]), default="text", help="what to print")
def recover(call: Call, **given: Any) -> int:
    """Nothing that is newer than the save is overwritten. The state file active_state.json is written anew."""
    return recovering.recover(call.directory, call.as_json, given)


@command("status")
@paths_argument
@everything_option
@roots_option
@click.option("--short", is_flag=True, help="one line for a prompt, from files alone: status and task")
@click.option("--watch", is_flag=True, help="a live table, worst first, until q or Ctrl-C")
@click.option(
    "--interval",
    type=Seconds(0.1, 86_400),
    metavar="SECONDS",
    help="with --watch: look again after so long  [default: 2]",
)
@click.option(
    "--prometheus",
    type=click.Path(),
    metavar="FILE",
    help="write metrics for Prometheus' node_exporter to FILE (-: stdout)",
)
def status(call: Call, **given: Any) -> int:
    """Nothing is changed."""
    return recovering.status(call.directory, call.as_json, given)


@command("verify")
@paths_argument
@everything_option
def verify(call: Call, paths: tuple[str, ...], everything: bool) -> int:
    """The save is rebuilt in a temporary directory and compared. `status` and `doctor` tell the result later."""
    from ...history.verify import proof_json
    from ...history.verify import verify as prove
    from ...recover.request import worst_of

    targets = (
        recovering.all_workspaces(call.directory, paths, (), everything=True).paths
        if everything
        else call.absolute(paths) or [call.directory]
    )
    proofs: list[Proof] = []
    rows: list[Mapping[str, Any]] = []

    def prove_one(path: bytes) -> int:
        proofs.append(prove(path))
        rows.append(proof_json(proofs[-1]))
        return EXIT_PERSON if proofs[-1].problems else EXIT_DONE

    if len(targets) == 1:
        statuses = [prove_one(targets[0])]
    else:
        statuses = [quick.each_of_many("verify", path, prove_one, rows) for path in targets]
    if call.as_json:
        call.answer(workspaces=rows)
    else:
        for proof in proofs:
            print_lines(proof_lines(proof))
    return worst_of(statuses)


# -- words


def proof_lines(proof: Proof) -> list[str]:
    """What `verify` tells a person about one workspace."""
    where = escape(proof.workspace)
    notes = [f"  {note}" for note in proof.notes]
    if proof.proven:
        first = f"{where}: save {proof.save_id} proven at {proof.at} ({proof.objects} objects, {proof.paths} files)"
        return [first, *notes]
    if not proof.problems:
        return [f"{where}: no save to verify"]
    named = f"save {proof.save_id}" if proof.save_id else "the newest save"
    lines = [f"{where}: {named} does not come back", *(f"  {problem}" for problem in proof.problems), *notes]
    return [*lines, "  next: gitstate save (a new one); gitstate log (the others)"]
