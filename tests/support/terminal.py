"""The width of a line on a terminal."""

from __future__ import annotations


def columns(line: str) -> int:
    return sum(2 if ord(c) > 0x2E80 else 1 for c in line)
