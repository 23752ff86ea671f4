"""The table of the settings' reference page: `python -m gitstate.cli.settings_page docs/settings.md` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from ..workspace.settings import SETTINGS, Setting

BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"
_TYPES = {"path": "path inside the workspace", "patterns": "pattern, may be repeated", "remote": "name or URL"}


def settings_table() -> str:
    """Every setting as a row of a Markdown table."""
    rows = ["| setting | type | default | option | environment | meaning |", "|---|---|---|---|---|---|"]
    for setting in SETTINGS:
        cells = (
            f"`{setting.key}`",
            _type(setting),
            "none" if setting.default is None else f"`{setting.default}`",
            "" if setting.option is None else f"`{setting.option}`",
            f"`{setting.variable}`",
            setting.meaning,
        )
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def filled(page: str) -> str:
    """`page` with the table of now between the markers. Raises ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN.strip()} … {END.strip()} in the page")
    return f"{before}{begin}{settings_table()}{end}{after}"


def _type(setting: Setting) -> str:
    if setting.most:
        return f"{setting.kind}, {setting.least:.6g} to {setting.most:.7g}"
    return _TYPES.get(setting.kind, setting.kind)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text("utf-8")), "utf-8")
