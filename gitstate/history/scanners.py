"""Scanners for secrets that the user has installed: they are run on files before a save leaves this host."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import GitstateError
from ..git.command import environment
from ..system.child import Child

#: Seconds for the files of one save.
_DEADLINE = 300.0


class Scanner(NamedTuple):
    """One program: its arguments, `{}` standing for the directory, and how its answer is read."""

    name: str
    arguments: tuple[str, ...]
    findings: Callable[[str], Iterator[tuple[str, str]]]
    """What it printed → the file and the kind of each secret. Raises ValueError, KeyError, TypeError."""
    statuses: tuple[int, ...] = (0,)


def _json_of(text: str) -> Any:
    return json.loads(text) if text.strip() else []


def _gitleaks(text: str) -> Iterator[tuple[str, str]]:
    for item in _json_of(text) or []:
        yield item["File"], item["RuleID"]


def _trufflehog(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        item = json.loads(line)
        if "DetectorName" in item:
            yield item["SourceMetadata"]["Data"]["Filesystem"]["file"], item["DetectorName"]


def _detect_secrets(text: str) -> Iterator[tuple[str, str]]:
    for file, items in json.loads(text)["results"].items():
        for item in items:
            yield file, item["type"]


#: Guesses by the randomness of a text take every hash for a secret.
_NO_GUESSES = ("--disable-plugin=HexHighEntropyString", "--disable-plugin=Base64HighEntropyString")
_TO_STDOUT = ("--report-format=json", "--report-path=/dev/stdout", "--log-level=error", "--exit-code=0")

SCANNERS = (
    Scanner("gitleaks", ("detect", "--no-git", "--no-banner", "--redact", *_TO_STDOUT, "--source={}"), _gitleaks),
    Scanner("trufflehog", ("filesystem", "--no-verification", "--no-update", "--json", "{}"), _trufflehog),
    Scanner("detect-secrets", ("-C", "{}", "scan", "--all-files", "--no-verify", *_NO_GUESSES, "."), _detect_secrets),
)


def find_secrets(directory: str, export: Callable[[], None]) -> list[str]:
    """What the first scanner that is installed finds below `directory`, into which `export` writes the files.

    Each is a text for a person. Nothing is exported where no scanner is installed. Raises GitstateError where it fails.
    """
    scanner = next((item for item in SCANNERS if _is_installed(item.name)), None)
    if scanner is None:
        return []
    export()
    found = list(dict.fromkeys(_scan(scanner, directory)))
    return [f"{scanner.name} found a secret in {file} ({kind})" for file, kind in found]


def _is_installed(name: str) -> bool:
    path = shutil.which(name)
    return path is not None and os.path.isabs(path)


def _scan(scanner: Scanner, directory: str) -> Iterator[tuple[str, str]]:
    argv: list[str | bytes] = [scanner.name, *(word.replace("{}", directory) for word in scanner.arguments)]
    env: Mapping[str, str] = environment()
    child = Child(argv, env)
    try:
        out, err = child.communicate(timeout=_DEADLINE)
    except TimeoutError:
        child.kill()
        child.communicate()
        raise GitstateError(f"{scanner.name} took more than {_DEADLINE:.0f} seconds") from None
    try:
        if child.returncode not in scanner.statuses:
            raise ValueError
        for file, kind in scanner.findings(out.decode("utf-8", "replace")):
            yield _inside(file, directory), kind
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = err.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1][:200] if lines else "its answer could not be read"
        raise GitstateError(f"{scanner.name} failed ({child.returncode}): {reason}") from None


def _inside(file: str, directory: str) -> str:
    """The path as the workspace knows it: without the directory, and the number of the list that it was in."""
    top = os.path.realpath(directory)
    # Some name it below the directory, some from the current one.
    below = [os.path.relpath(os.path.realpath(full), top) for full in (file, os.path.join(directory, file))]
    relative = next((path for path in below if not path.startswith("..")), file)
    return relative.partition("/")[2] or relative
