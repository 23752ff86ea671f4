"""Sections of a page of the documents that a benchmark writes, and a person does not."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, section: str, text: str) -> None:
    """Replace one section of a page; its two marks must stand in the page. Raises ValueError where they do not."""
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{page}: no section between {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
