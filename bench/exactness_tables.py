"""The tables of `exactness.py`: who brought back what, and what was lost without a word."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.states import STATES, SUBJECTS  # noqa: E402

LOSSES = ("in place", "wiped")
EXACT, WRONG, REFUSED, STOPPED = "exact", "wrong", "refused", "did not end"


@dataclass(frozen=True)
class Outcome:
    """What one tool did to one state."""

    tool: str
    state: str
    loss: str
    verdict: str
    #: What is different, one line each, as the oracle says it; or why it was refused.
    lines: tuple[str, ...]


#: What a line of the oracle's says is lost, in words of a reader; the first that matches.
LOST = {
    "HEAD or the branch": r"(HEAD|commit)",
    "what was staged: contents, flags, conflicts": r"index ",
    "the unfinished merge, rebase, cherry-pick or bisect": r"operation ",
    "settings of a sparse checkout": r"setting ",
    "repositories inside of the workspace": r"repository ",
    "empty directories, permissions of directories": r"file .*: .*directory [0-7]+",
    "permissions of files": r"file .*: (\w+) [0-7]+ (\w*) became \1 [0-7]+ \2$",
    "deleted or renamed files come back": r"file .* appeared$",
    "files that are gone": r"file .* is gone$",
    "contents, or the type of a file": r"file ",
}


def kinds_of_loss(outcome: Outcome) -> set[str]:
    return {next(name for name, form in LOST.items() if re.match(form, line)) for line in outcome.lines}


def stopped(outcomes: Sequence[Outcome], limit: float) -> str:
    """Who was killed in which states; empty where everything ended."""
    tools: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        if outcome.verdict == STOPPED:
            tools.setdefault(outcome.tool, {})[f"`{outcome.state}`"] = None
    who = "; ".join(f"{tool} ({', '.join(states)})" for tool, states in tools.items())
    return f"Did not end within {limit:g} s, or started processes without end, and was killed: {who}." if who else ""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---", *("---:" for _ in rows[0][1:])], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def totals(tools: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    counts = Counter((outcome.tool, outcome.loss, outcome.verdict) for outcome in outcomes)
    words = [EXACT, WRONG, REFUSED, *([STOPPED] if any(outcome.verdict == STOPPED for outcome in outcomes) else [])]
    columns = [(loss, word) for loss in LOSSES for word in words]
    rows = [["", *(f"{loss}: {word}" for loss, word in columns)]]
    rows += [[tool, *(str(counts[tool, loss, word]) for loss, word in columns)] for tool in tools]
    return markdown(rows)


def by_subject(tools: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """For each subject: the number of its states, and how many each tool brought back exactly."""
    rows = [["kind of state (number)", *tools]]
    for subject in SUBJECTS:
        names = {name for name, state in STATES.items() if state.build.__module__ == subject.__name__}
        chosen = [outcome for outcome in outcomes if outcome.state in names]
        exact = Counter((outcome.tool, outcome.loss) for outcome in chosen if outcome.verdict == EXACT)
        number = len({outcome.state for outcome in chosen})
        if number:
            title = f"{(subject.__doc__ or '').splitlines()[0].rstrip('.')} ({number})"
            rows.append([title, *(f"{exact[tool, 'in place']}, {exact[tool, 'wiped']}" for tool in tools)])
    return markdown(rows)


def by_loss(tools: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """In how many states a tool that reported success lost something of a kind."""
    counts = Counter(
        (outcome.tool, what) for outcome in outcomes if outcome.verdict == WRONG for what in kinds_of_loss(outcome)
    )
    rows = [["what is lost or changed, and nothing says so", *tools]]
    rows += [[what, *(str(counts[tool, what]) for tool in tools)] for what in LOST]
    return markdown(rows)


def where_we_lose(outcomes: Sequence[Outcome]) -> str:
    """Every state that gitstate does not bring back exactly, with the first difference."""
    rows = [["state", "lost", "verdict", "first difference"]]
    for outcome in outcomes:
        if outcome.tool == "gitstate" and outcome.verdict != EXACT:
            line = " ".join(outcome.lines[0].split())[:70].replace("|", "\\|")
            rows.append([f"`{outcome.state}`", outcome.loss, outcome.verdict, f"`{line}`"])
    return markdown(rows).replace("---:", "---") if len(rows) > 1 else "None.\n"


def report(versions: dict[str, str], outcomes: Sequence[Outcome], limit: float, skipped: Sequence[str]) -> str:
    tools = list(versions)
    number = len({outcome.state for outcome in outcomes})
    names = ", ".join(f"{tool} {release}" for tool, release in versions.items())
    parts = [
        f"{number} of the {len(STATES)} states, each saved, then restored where it stood and after a wipe "
        f"(`git reset --hard`, `git clean -ffdx`). {datetime.now(UTC).date().isoformat()}: {names}.",
        totals(tools, outcomes),
        stopped(outcomes, limit),
        "The same, by kind of state: how many came back exactly, in place and after the wipe.",
        by_subject(tools, outcomes),
        "What the tools lose without a word, in how many states (both ways of loss together).",
        by_loss(tools, outcomes),
    ]
    if "gitstate" in tools:
        parts += ["Where gitstate itself does not bring back everything:", where_we_lose(outcomes)]
    tried = {outcome.state for outcome in outcomes}
    missing = [name for name in STATES if name not in tried and not any(why.startswith(f"{name} ") for why in skipped)]
    if len(missing) > len(tried):
        names = ", ".join(name for name in STATES if name in tried)
        parts.append(f'A sample of the states, which `--states "{names}"` chooses.')
    elif missing:
        parts.append(f"Not tried in this run: {', '.join(f'`{name}`' for name in missing)}.")
    if skipped:
        parts.append("Not possible on this machine: " + "; ".join(skipped) + ".")
    return "\n".join(part if part.endswith("\n") else part + "\n" for part in parts if part)
