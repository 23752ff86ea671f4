"""The pages are true: their commands exist, their blocks run, their transcripts are what is printed, links resolve."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gitstate import __version__, errors
from gitstate.cli.commands import demo
from gitstate.workspace.settings import SETTINGS
from tests.project import generate_docs
from tests.project.test_layering import STOREYS
from tests.states import STATES, dirty, make
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import GITSTATE, Workspace, run_git

#: Every page by its path, and its text.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for directory in ("", "docs", "bench", "hooks")
    for path in sorted((ROOT / directory).glob("*.md"))
}
README = PAGES["README.md"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each code block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def block(language: str, word: str, page: str = "README.md") -> str:
    """The one block of a page in this language that holds this word."""
    found: str
    (found,) = [text for kind, text in blocks(page) if kind == language and word in text]
    return found


def gitstate(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GITSTATE, *args], capture_output=True, encoding="utf-8", timeout=60)


# --------------------------------------------------------------------------------------------------------------------
# The demo
# --------------------------------------------------------------------------------------------------------------------


def stable(transcript: str) -> list[str]:
    """Without what differs from run to run: save ids, object ids, process ids, the directory."""
    for pattern, word in (
        (r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}-\d+", "SAVE"),
        (r"\S*/gitstate-demo-\w+", "TMP"),
        (r"(?<![\w.])/\S*/shop\b", "TMP/shop"),
        (r"\b[0-9a-f]{7,40}\b", "OID"),
        (r"kill -TERM \d+", "kill -TERM PID"),
    ):
        transcript = re.sub(pattern, word, transcript)
    return transcript.splitlines()


def test_the_transcript_is_what_the_demo_prints() -> None:
    lines: list[str] = []
    assert demo.run(lines.append) == 0, "\n".join(lines)
    transcript = block("console", "demo", "docs/demo.md").removeprefix("$ gitstate demo\n")
    assert stable("\n".join(lines)) == stable(transcript)
    assert len(lines) <= 60


def test_the_demo_leaves_nothing_behind(tmp_path: Path, hermetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the temporary directory, not at home, and whatever the user's environment and configuration say."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_AUTHOR_DATE", "rubbish")
    (hermetic / ".gitconfig").write_text("[commit]\n\tgpgSign = true\n[status]\n\tshort = x\n")
    before = sorted(hermetic.rglob("*"))
    done = gitstate("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("byte for byte") == 2
    assert list(tmp_path.iterdir()) == []
    assert sorted(hermetic.rglob("*")) == before


def test_the_demo_works_where_sigterm_is_ignored() -> None:
    command = f"trap '' TERM; exec {shlex.quote(sys.executable)} -m gitstate demo"
    done = subprocess.run(["sh", "-c", command], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_tells_when_something_is_not_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    wipe = demo._Story._wipe

    def wipe_and_spoil(story: demo._Story, commit: str) -> None:
        wipe(story, commit)
        (story.shop / "notes.txt").write_text("newer than the save\n")

    monkeypatch.setattr(demo._Story, "_wipe", wipe_and_spoil)
    lines: list[str] = []
    assert demo.run(lines.append) == 1
    assert "notes.txt" in lines[-1]


# --------------------------------------------------------------------------------------------------------------------
# Blocks
# --------------------------------------------------------------------------------------------------------------------


#: What the agent of the README's transcript does.
AGENT = """\
echo 'vat = 0.19' >>price.py
git add price.py
echo 'gross = net * (1 + vat)' >>price.py
echo 'round to cents?' >notes.txt
kill -KILL $$
"""


def test_the_transcript_of_the_readme_is_what_its_commands_print(tmp_path: Path, on_path: Path) -> None:
    shop = tmp_path / "you" / "shop"
    shop.mkdir(parents=True)
    (shop.parent / "agent.sh").write_text(AGENT)
    run_git(shop, "init", "-q", "-b", "agent/42")
    (shop / "price.py").write_text("net = 100\n")
    run_git(shop, "add", ".")
    run_git(shop, "commit", "-q", "-m", "The shop")
    transcript = block("console", "gitstate run")
    assert len(transcript.splitlines()) == 12
    printed = ""
    for command in re.findall(r"^\$ (.*)$", transcript, re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=shop,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
        printed += f"$ {command}\n{done.stdout}"
    assert stable(printed) == stable(transcript)


def test_the_guide_shows_the_loop_of_the_readme() -> None:
    assert block("bash", "run-agent", "docs/guide.md") == block("bash", "run-agent")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = block("sh", "pytest").strip().rpartition(" && ")[2].removeprefix(".venv/bin/")
    assert command == 'pytest -q -n 4 -m "not slow"'
    assert f"\n{command}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_two_commands_set_themselves_up() -> None:
    for word in ("demo", "pytest"):
        (line,) = block("sh", word).splitlines()
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_plain_git_brings_the_files_back(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    before = fingerprint(ws.path)
    status = ws.status()
    assert ws.save().json["index_commit"]
    subprocess.run(["bash", "-ec", block("sh", "reset --soft")], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)
    assert ws.status() == status
    after = fingerprint(ws.path)
    assert (after.head, after.commit, after.files) == (before.head, before.commit, before.files)


def test_removal_leaves_a_repository_that_git_takes_for_whole(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    assert ws.save().exit_status == 0
    before = ws.status()
    subprocess.run(["bash", "-ec", block("sh", "delete %(refname)", "docs/guide.md")], cwd=ws.path, check=True)
    assert ws.refs("refs/gitstate", "refs/notes") == {} and not (ws.common_dir / "gitstate").exists()
    ws.git("fsck", "--strict")
    assert ws.status() == before and not (ws.path / "active_state.json").exists()


def test_plain_git_brings_a_merge_back(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["merge_conflict"], templates, tmp_path)
    before = fingerprint(ws.path)
    assert not ws.save().json["branch_moved"]
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-ffdxq")
    script = block("sh", "show", "docs/format.md") + block("sh", "operation", "docs/format.md")
    subprocess.run(["bash", "-euc", script], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)
    assert before.diff(fingerprint(ws.path)) == []
    ws.git("worktree", "prune")
    script = 'save=$(git for-each-ref --format="%(objectname)" refs/gitstate/pending)\n'
    script += block("sh", "worktree add", "docs/format.md")
    subprocess.run(["bash", "-euc", script], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)


def test_the_format_page_names_every_field(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    archive = ws.save().json["archive"]
    for name in ("context", "manifest"):
        section = PAGES["docs/format.md"].partition(f"### {name}.json")[2].partition("\n#")[0]
        table = section.partition("| field |")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert sorted(listed) == sorted(json.loads(ws.git("show", f"{archive}:{name}.json")))
    entries = {name.partition("/")[0] for name in ws.git("ls-tree", "--name-only", archive).decode().split()}
    assert entries <= set(re.findall(r"^\| `([\w.-]+)", PAGES["docs/format.md"], re.MULTILINE))


def test_another_host_recovers_what_was_pushed(templates: Templates, tmp_path: Path, on_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    before = fingerprint(ws.path)
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    run_git(tmp_path, "init", "-q", "--bare", str(remote))
    ws.git("remote", "add", "origin", str(remote))
    ws.git("push", "-q", "origin", "HEAD")
    assert ws.save().exit_status == 0
    subprocess.run(["bash", "-ec", block("sh", "gitstate push", "docs/guide.md")], cwd=ws.path, check=True)
    run_git(tmp_path, "clone", "-q", "-b", "agent/work", str(remote), str(clone))
    subprocess.run(["bash", "-ec", block("sh", "gitstate fetch", "docs/guide.md")], cwd=clone, check=True)
    after = fingerprint(clone)
    assert before.diff(replace(after, settings=before.settings)) == []


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH with a `gitstate` in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    command = directory / "gitstate"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gitstate "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


@pytest.fixture
def loop(templates: Templates, tmp_path: Path, on_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A clean workspace, `agent-loop.sh` beside it, and `gitstate` and `run-agent` on the PATH."""
    ws = make(STATES["clean"], templates, tmp_path)
    ws.script("agent-loop.sh", "").write_text(block("bash", "run-agent"))
    agent = 'echo work >>work.txt\ngit add work.txt\necho more >>work.txt\necho >"$READY"\nexec sleep 600\n'
    ws.script("run-agent", agent).rename(on_path / "run-agent")
    monkeypatch.setenv("READY", str(ws.outside / "ready"))
    return ws


def start(ws: Workspace) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", str(ws.outside / "agent-loop.sh")], cwd=ws.path, start_new_session=True)


def wait_for_agent(ws: Workspace, running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not (ws.outside / "ready").exists():
        assert running.poll() is None and time.monotonic() < end, "the agent never started"
        time.sleep(0.02)
    (ws.outside / "ready").unlink()


@pytest.mark.sample(5)
@pytest.mark.faults
@pytest.mark.parametrize("whole_group", [False, True], ids=["loop", "group"])
@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_the_loop_saves_dies_of_the_signal_and_recovers(loop: Workspace, name: str, whole_group: bool) -> None:
    number = getattr(signal, f"SIG{name}")
    running = start(loop)
    wait_for_agent(loop, running)
    before = loop.status()
    (os.killpg if whole_group else os.kill)(running.pid, number)
    assert running.wait(60) == -number
    assert len(loop.refs("refs/gitstate/pending")) == 1
    assert loop.status() == set()
    loop.git("clean", "-ffdxq")
    again = start(loop)
    wait_for_agent(loop, again)
    try:
        assert loop.refs("refs/gitstate/pending") == {}
        assert loop.status() == before
        assert loop.read("work.txt") == b"work\nmore\nwork\nmore\n"
    finally:
        os.killpg(again.pid, signal.SIGTERM)
        again.wait(60)


def test_the_loop_passes_the_agents_exit_status_on(loop: Workspace, on_path: Path) -> None:
    (on_path / "run-agent").write_text("#!/bin/sh\necho work >work.txt\nexit 7\n")
    assert start(loop).wait(60) == 7
    (archive,) = loop.refs("refs/gitstate/pending").values()
    assert b'"exit_code": 7' in loop.git("show", f"{archive}:manifest.json")


def test_one_line_for_any_agent(loop: Workspace, on_path: Path) -> None:
    (on_path / "run-agent").rename(on_path / "claude")
    line = ["bash", "-c", "exec " + block("sh", "gitstate run")]
    running = subprocess.Popen(line, cwd=loop.path, start_new_session=True)
    wait_for_agent(loop, running)
    before = loop.status()
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == -signal.SIGTERM
    assert len(loop.refs("refs/gitstate/pending")) == 1
    assert gitstate("-C", str(loop.path), "recover").returncode == 0
    assert loop.status() == before


def test_a_loop_in_python(loop: Workspace) -> None:
    script = loop.script("loop.py", "")
    script.write_text(block("python", "guard", "docs/guide.md"))
    running = subprocess.Popen([sys.executable, str(script)], cwd=loop.path, start_new_session=True)
    wait_for_agent(loop, running)
    before = loop.status()
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == -signal.SIGTERM
    assert gitstate("-C", str(loop.path), "recover").returncode == 0
    assert loop.status() == before


# --------------------------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------------------------


def commands(text: str) -> set[str]:
    return set(re.findall(r"(?<![-\w/.])gitstate (?:-C \S+ )?([a-z]+)\b(?=[^.]|$)", text))


def code(page: str) -> str:
    """The code of a page, in lines and in blocks."""
    lines = re.findall(r"`([^`\n]+)`", PAGES[page])
    return "\n".join([*lines, *(text for language, text in blocks(page) if language != "mermaid")])


def offered() -> set[str]:
    return set(re.findall(r"^  ([a-z]+)  ", gitstate("--help").stdout, re.MULTILINE))


def test_the_reference_names_every_command() -> None:
    assert commands(code("docs/commands.md")) == offered()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_is_there(page: str) -> None:
    assert commands(code(page)) <= offered() | {"hook", "manual"}


def test_every_command_has_json_but_those_that_the_reference_names() -> None:
    sentence = PAGES["docs/commands.md"].partition("and all but ")[2].partition(" have `--json`")[0]
    without = set(re.findall(r"`(\w+)`", sentence))
    assert without == {"demo", "run", "loop", "init", "completion"}
    for command in offered() - {"boot"}:
        assert ("--json" in gitstate(command, "--help").stdout) == (command not in without), command


def test_every_option_named_is_there() -> None:
    page = PAGES["docs/commands.md"]
    for command, options in {
        "save": ["--signal", "--exit-code", "--reason", "--include-ignored", "--deadline", "--json"],
        "recover": ["--dry-run", "--into", "--all", "--root", "--dismiss", "--json"],
        "status": ["--all", "--json"],
        "install": ["--agent", "--dry-run"],
        "doctor": ["--fix"],
    }.items():
        said = gitstate(command, "--help").stdout
        assert all(option in said and option in page for option in options), command


def test_options_of_settings_take_words_and_default_from_the_table() -> None:
    offered = " ".join(gitstate(command, "--help").stdout for command in ("run", "save", "prune"))
    offered = " ".join(offered.split())
    with_option = [(setting, setting.option) for setting in SETTINGS if (setting.option or "").startswith("--")]
    assert len(with_option) == 6
    for setting, option in with_option:
        default = "" if setting.default is None else f", {setting.default}"
        assert option is not None and option in offered
        assert f"{setting.meaning} [{setting.key}{default}]" in offered


def test_only_the_settings_module_reads_a_setting() -> None:
    """`gitstate.workspace` was the list of workspaces, `gitstate.bash` is a file."""
    keys = "|".join(re.escape(part) for setting in SETTINGS for part in (setting.key.lower(), setting.variable))
    read = re.compile(rf"""['"]({keys})['"]""", re.IGNORECASE)
    modules = {path for path in (ROOT / "gitstate").rglob("*.py") if read.search(path.read_text("utf-8"))}
    assert not modules


@pytest.mark.parametrize("page", generate_docs.GENERATED)
def test_generated_part_of_page_is_current(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == generate_docs.generate(page, text), f"to write it anew: {generate_docs.COMMAND}"


def test_contributing_names_the_command_that_generates_pages() -> None:
    assert generate_docs.COMMAND in PAGES["CONTRIBUTING.md"]


def test_every_package_of_the_picture_is_described() -> None:
    page = PAGES["docs/architecture.md"]
    described = re.findall(r"^\| `(\w+)` \|", page.partition("| package |")[2].partition("\n\n")[0], re.MULTILINE)
    assert described == [package for storey in STOREYS.values() for package in storey]


def test_the_shell_variables_are_all_described(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    said = gitstate("-C", str(ws.path), "recover", "--format", "shell").stdout
    table = PAGES["hooks/README.md"].partition("| variable |")[2].partition("\n\n")[0]
    assert set(re.findall(r"RECOVERED_\w+", table)) == set(re.findall(r"^(\w+)=", said, re.MULTILINE))


def test_table_of_exit_statuses_holds_every_status() -> None:
    listed = {int(status) for status, _ in errors.EXIT_STATUSES if status.isdigit()}
    assert listed == {value for name, value in vars(errors).items() if name.startswith("EXIT_") and type(value) is int}
    classes = (error for error in vars(errors).values() if isinstance(error, type))
    raised = {error.exit_status for error in classes if issubclass(error, errors.GitstateError)}
    assert raised == {errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_PERSON, errors.EXIT_AGAIN}


def test_unit_for_boot_and_git_shim_know_the_exit_statuses() -> None:
    unit = (ROOT / "hooks" / "boot" / "gitstate-recover.service").read_text(encoding="utf-8")
    assert f"\nSuccessExitStatus={errors.EXIT_PERSON}\n" in unit
    # Status 75 is the failure after which the unit starts again.
    (never,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert "\nRestart=on-failure\n" in unit and str(errors.EXIT_AGAIN) not in never.split()
    assert set(map(int, never.split())) == {errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_BUG}
    shim = (ROOT / "hooks" / "git" / "gitstate-hook").read_text(encoding="utf-8")
    assert f"\n  [ $? != {errors.EXIT_PERSON} ] || exit 1\n" in shim


def test_the_changelog_begins_with_this_version() -> None:
    assert re.findall(r"^## (.*)$", PAGES["CHANGELOG.md"], re.MULTILINE)[0] == __version__


def test_the_readme_is_short_and_begins_with_a_first_use() -> None:
    lines = README.splitlines()
    assert len(lines) <= 130
    assert lines.index(block("sh", "gitstate run").strip()) < 12
    assert lines.index('eval "$(gitstate init bash)"') < 24


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = (ROOT / page).parent.joinpath(path) if path else ROOT / page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/reliability.md"])
def test_no_line_is_too_long(page: str) -> None:
    """A row of the reliability page's table names whole tests."""
    for line in PAGES[page].splitlines():
        assert "://" in line or len(line) <= 160, line
