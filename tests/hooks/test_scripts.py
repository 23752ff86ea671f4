"""The scripts are portable to old shells and pass shellcheck."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hooks.stage import LIBRARY, SCRIPTS, Stage
from tests.support.environment import ROOT
from tests.support.skips import not_installed
from tests.support.workspace import Workspace

#: What bash 3.2 does not know: a pattern for each.
NEWER = {
    "associative arrays, namerefs": r"\b(?:declare|local|typeset)\s+-\w*[Ang]",
    "transformations of values": r"\$\{[\w\[\]@*]+@[A-Za-z]\}",
    "case of values": r"\$\{\w+(?:\[[^]]*\])?(?:\^|,)",
    "wait -n": r"\bwait\s+-",
    "mapfile": r"\b(?:mapfile|readarray|coproc)\b",
    "&>> and |&": r"&>>|\|&",
    "negative offsets": r"\$\{\w+\[-",
    "[[ -v": r"\[\[ -v\b",
    "printf of time or into a variable's element": r"printf\s+(?:-v\s+\w+\[|'%\()",
    "EPOCHSECONDS and the like": r"\$\{?(?:EPOCH|SRANDOM|BASH_ARGV0)",
    "fractions of read -t": r"\bread\b.*-t\s*0?\.",
    "an array that may be empty under set -u": r'(?<!\+)"\$\{(?!_gitstate_argv)\w+\[@\]\}"(?!\})',
    "local -": r"\blocal -(?:\s|$)",
    ";& and ;;&": r";;?&(?!&)\s*$",
    "BASHPID, which is empty there, without a default": r"\$\{?BASHPID(?!-)",
    "negative lengths": r"\$\{\w+:[0-9 ]+:\s*-",
    "Unicode escapes": r"\$'[^']*\\[uU][0-9A-Fa-f]",
    "a chosen descriptor": r"^\s*exec \{(?!_gitstate_fd\})",
    "read -N and read -i": r"\bread\s+-\w*[Ni]",
    "options of bash 4 and 5": r"\b(?:lastpipe|globstar|inherit_errexit|localvar_\w+|assoc_expand_once)\b",
    "test -v and -R": r"(?:\[|\btest) -[vR] ",
    "case inside of $( ), which it cannot read": r"\$\([^()\n]*\bcase\b",
    "${!name}, which zsh does not know": r"\$\{![A-Za-z_]",
}
#: A line for each of them.
SAMPLES = (
    "declare -A map",
    "local -n name",
    "echo ${x@Q}",
    "echo ${x^^}",
    "wait -n",
    "mapfile -t x",
    "cat &>>log",
    "a |& b",
    "echo ${x[-1]}",
    "[[ -v x ]]",
    "printf '%(%s)T'",
    "echo $EPOCHSECONDS",
    "read -t 0.5 x",
    'f "${x[@]}"',
    "local -",
    "x) a ;;&",
    "echo $BASHPID",
    "echo ${x:0:-1}",
    "echo $'\\u00e9'",
    "exec {fd}<file",
    "read -N 1 x",
    "shopt -s lastpipe",
    "[ -v x ]",
    "x=$(case y in z) a ;; esac)",
    "echo ${!name}",
)


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_init_prints_the_library(stage: Stage, name: str) -> None:
    printed = stage.ws.gitstate("init", name).stdout.decode()
    words = shlex.split(printed.rpartition("\nif [")[0])
    assert words == [f"_gitstate_library={LIBRARY.read_text(encoding='utf-8')}"]


@pytest.mark.parametrize("name", ["dash", "fish", "sh", "ksh", "csh", "pwsh"])
def test_other_shells_get_one_clear_line(ws: Workspace, name: str) -> None:
    done = ws.gitstate("init", name)
    assert done.exit_status == 2 and done.stdout == b""
    assert f"there is none for {name}" in done.stderr and " run -- COMMAND" in done.stderr


@pytest.mark.parametrize(("mine", "named"), [("/usr/bin/zsh", "zsh"), ("/bin/bash", "bash"), ("/bin/fish", "bash")])
def test_init_without_a_shell_names_the_users_own(
    mine: str, named: str, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", mine)
    done = ws.gitstate("init")
    assert done.exit_status == 2 and f'next: eval "$(gitstate init {named})"' in done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_no_feature_newer_than_bash_3_2(path: Path) -> None:
    """Bash 3.2 is rarely installed, so the test searches the text for newer features.

    Where one is, GITSTATE_TEST_SHELLS names it, and all tests of the library run in it.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for what, pattern in NEWER.items():
        assert not re.search(pattern, code, re.MULTILINE), what


def test_the_search_sees_each_feature() -> None:
    seen = {what for what, pattern in NEWER.items() for line in SAMPLES if re.search(pattern, line, re.MULTILINE)}
    assert seen == set(NEWER)
    assert [line for line in SAMPLES if not any(re.search(one, line, re.MULTILINE) for one in NEWER.values())] == []


@pytest.mark.parametrize("path", (*SCRIPTS, ROOT / "bin" / "gitstate"), ids=lambda path: path.name)
def test_scripts_pass_shellcheck(path: Path) -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip(not_installed("shellcheck"))
    done = subprocess.run([program, "--severity=style", str(path)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
