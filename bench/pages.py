"""Sections of a page of the documents that a benchmark writes, and a person does not."""

from __future__ import annotations

import textwrap
from pathlib import Path


def put(page: Path, section: str, text: str) -> None:
    """Replace one section of a page; its two marks must stand in the page. Raises ValueError where they do not."""
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{page}: no section between {begin} and {end}")
    lines = [
        line if line[:1] in "|!#" else textwrap.fill(line, 132, break_long_words=False) for line in text.splitlines()
    ]
    written = "\n".join(lines).strip()
    page.write_text(f"{before}{begin}\n\n{written}\n\n{end}{after}", encoding="utf-8")
