"""The sweeps' figures are printed at the end of the run, those of a passing test too, and across test workers."""

from __future__ import annotations

import pytest

from .sweeps import Say

_FIGURES = "figures of a sweep"


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Say a line at the end of the run, under the name of the test."""

    def add(line: str) -> None:
        request.node.user_properties.append((_FIGURES, line))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                name = report.nodeid.rpartition("faults/")[2]
                lines += [f"{name}: {line}" for key, line in report.user_properties if key == _FIGURES]
    if lines:
        terminalreporter.section("points of the fault sweeps")
        for line in sorted(lines):
            terminalreporter.write_line(line)
