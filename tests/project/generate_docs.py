"""Write the generated parts of the documentation: `python -m tests.project.generate_docs`.

What stands between two comments, `<!-- name -->` and `<!-- /name -->`, is generated; the rest of the page is written by
hand. The manual page is generated as a whole.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from gitstate.cli.commands import shell
from gitstate.cli.main import group
from gitstate.cli.reference import Described, describe_commands
from gitstate.errors import EXIT_STATUSES
from gitstate.workspace.settings import SETTINGS, Setting
from tests.project.test_layering import STOREYS
from tests.support.environment import ROOT

COMMAND = "python -m tests.project.generate_docs"


def main() -> None:
    for page in GENERATED:
        path = ROOT / page
        path.write_text(generate(page, path.read_text(encoding="utf-8")), encoding="utf-8")


def generate(page: str, text: str) -> str:
    """The text of a page with its generated parts as they must be."""
    return GENERATED[page](text)


# -- docs/commands.md


def commands_page(text: str) -> str:
    described = describe_commands(group)
    for heading in dict.fromkeys(command.group for command in described):
        rows = [(_link(command), command.summary) for command in described if command.group == heading]
        text = replace_part(text, f"commands: {heading}", table(("command", "effect"), rows))
    return replace_part(text, "options", "\n\n".join(_command(command) for command in described))


def _link(command: Described) -> str:
    return f"[`gitstate {command.name}`](#gitstate-{command.name.replace(' ', '-')})"


def _command(command: Described) -> str:
    text = textwrap.fill(f"{command.summary}. {command.details}", 128)
    parts = [f"### gitstate {command.name}", f"`{command.usage}`", text]
    if command.examples:
        width = max(len(line) for line, _ in command.examples)
        lines = [f"{line.ljust(width)}  # {meaning}" for line, meaning in command.examples]
        parts.append("\n".join(["```sh", *lines, "```"]))
    if command.options:
        parts.append(table(("option", "effect"), [(f"`{flags}`", effect) for flags, effect in command.options]))
    return "\n\n".join(parts)


# -- docs/settings.md

_TYPES = {
    "path": "path inside the workspace",
    "patterns": "pattern, may be repeated",
    "remote": "name or URL",
    "remotes": "name or URL, may be repeated",
}


def settings_page(text: str) -> str:
    header = ("setting", "type", "default", "option", "environment", "meaning")
    rows = [
        (
            f"`{setting.key}`",
            _type(setting),
            "none" if setting.default is None else f"`{setting.default}`",
            "" if setting.option is None else f"`{setting.option}`",
            f"`{setting.variable}`",
            setting.meaning,
        )
        for setting in SETTINGS
    ]
    return replace_part(text, "settings", table(header, rows))


def _type(setting: Setting) -> str:
    if setting.most:
        return f"{setting.kind}, {setting.least:.6g} to {setting.most:.7g}"
    return _TYPES.get(setting.kind, setting.kind)


# -- docs/exit-status.md


def exit_status_page(text: str) -> str:
    return replace_part(text, "statuses", table(("exit status", "meaning"), EXIT_STATUSES))


# -- docs/architecture.md


def architecture_page(text: str) -> str:
    return replace_part(text, "layers", "\n".join(_picture()))


def _picture() -> Iterator[str]:
    """The packages by storey, from the bottom up, for Mermaid."""
    yield "```mermaid\nflowchart BT"
    for storey, packages in STOREYS.items():
        if len(packages) == 1 and packages[0] == storey:
            yield f"  {storey}"
            continue
        yield f"  subgraph {storey} [{storey.capitalize()}]"
        yield f"    {' --> '.join(packages)}"
        yield "  end"
    yield f"  {' --> '.join(STOREYS)}\n```"


# -- parts


def replace_part(text: str, name: str, content: str) -> str:
    """Put `content` between the two comments that name a part."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    assert text.count(begin) == text.count(end) == 1, name
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


GENERATED: dict[str, Callable[[str], str]] = {
    "docs/commands.md": commands_page,
    "docs/settings.md": settings_page,
    "docs/exit-status.md": exit_status_page,
    "docs/architecture.md": architecture_page,
    "man/git-gitstate.1": lambda _: shell.page(),
}

if __name__ == "__main__":
    main()
