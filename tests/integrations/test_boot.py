"""`gitstate boot`: systemd, cron and launchd, each played by a script that keeps state."""

from __future__ import annotations

import json
import os
import plistlib
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from gitstate.errors import NeedsPerson
from gitstate.integrations import schedulers
from gitstate.integrations.scheduler import write_file
from gitstate.system.child import command
from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.skips import not_installed
from tests.support.workspace import GITSTATE, Run

FAKES = {
    "crontab": """
        case $1 in
          -l) [ -e "$STATE/crontab" ] || { echo "no crontab for me" >&2; exit 1; }; cat "$STATE/crontab" ;;
          -) cat >"$STATE/crontab" ;;
          *) exit 9 ;;
        esac""",
    "systemctl": """
        [ -e "$STATE/manager" ] || { echo "Failed to connect to bus" >&2; exit 1; }
        case $2 in
          enable) echo "$3" >>"$STATE/enabled" ;;
          disable) echo "$3" >>"$STATE/disabled" ;;
        esac""",
    "loginctl": """
        [ -e "$STATE/linger" ] && echo Linger=yes || echo Linger=no""",
    "launchctl": """
        case $1 in
          print) [ -e "$STATE/loaded" ] ;;
          bootstrap) [ ! -e "$STATE/loaded" ] || exit 5; echo "$3" >"$STATE/loaded" ;;
          bootout) rm "$STATE/loaded" ;;
        esac""",
}


class World:
    """A home directory, and fake schedulers: scripts that keep state and record their arguments."""

    def __init__(self, top: Path, home: Path) -> None:
        self.home, self.state, self.bin = home, top / "state", top / "bin"
        self.state.mkdir()
        self.bin.mkdir()
        git = shutil.which("git")
        assert git is not None
        for name in ("sh", "cat", "grep", "mv", "rm"):
            (self.bin / name).symlink_to(shutil.which(name) or name)
        (self.bin / "git").symlink_to(git)

    def add(self, *names: str) -> None:
        for name in names:
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nSTATE={self.state}\necho "{name} $*" >>"$STATE/calls"\n{FAKES[name]}\n')
            script.chmod(0o755)

    def calls(self) -> list[str]:
        path = self.state / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def boot(self, *args: str) -> Run:
        argv = [*GITSTATE, "--json", "boot", *args]
        environment = {**os.environ, "PATH": str(self.bin)}
        done = subprocess.run(argv, capture_output=True, env=environment, cwd=self.state, timeout=60)
        return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def unit(self, name: str = "gitstate-recover.service") -> Path:
        return self.home / ".config" / "systemd" / "user" / name


@pytest.fixture
def world(tmp_path: Path, hermetic: Path) -> World:
    return World(tmp_path, hermetic)


# --------------------------------------------------------------------------------------------------------------------
# systemd
# --------------------------------------------------------------------------------------------------------------------


def test_systemd_is_preferred_idempotent_and_removable(world: World) -> None:
    world.add("systemctl", "loginctl", "crontab")
    for name in ("manager", "linger"):
        (world.state / name).touch()
    before = sorted(path for path in world.home.rglob("*") if path.is_file())
    for _ in range(2):
        run = world.boot("enable")
        assert run.exit_status == 0, run
        assert (run.json["scheduler"], run.json["enabled"], run.json["linger"]) == ("systemd", True, True)
    assert (world.state / "enabled").read_text().splitlines()[-1] == "gitstate-recover.service"
    assert world.unit().exists() and world.unit("agent-loop@.service").exists()
    assert not any(call == "crontab -" for call in world.calls())
    assert world.boot("disable").json["removed"] == ["systemd"]
    assert sorted(path for path in world.home.rglob("*") if path.is_file()) == before
    assert world.boot("disable").json["removed"] == []
    assert not world.boot("status").json["enabled"]


def test_missing_linger_is_reported_with_the_command(world: World) -> None:
    world.add("systemctl", "loginctl")
    (world.state / "manager").touch()
    run = world.boot("enable")
    assert run.exit_status == 4
    (trouble,) = run.json["troubles"]
    assert trouble["next"] == f"loginctl enable-linger {pwd.getpwuid(os.getuid()).pw_name}"
    assert trouble["next"] in run.stderr


def test_foreign_unit_is_kept(world: World) -> None:
    world.add("systemctl", "loginctl")
    (world.state / "manager").touch()
    world.unit().parent.mkdir(parents=True)
    world.unit().write_text("[Service]\nExecStart=/bin/true\n")
    assert world.boot("enable").exit_status == 4
    assert world.boot("disable").exit_status == 0
    assert world.unit().read_text() == "[Service]\nExecStart=/bin/true\n"


def test_command_that_moves_a_foreign_file_away_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "a b\x1b[2J'" / "unit"
    path.parent.mkdir()
    path.write_text("theirs")
    with pytest.raises(NeedsPerson) as raised:
        write_file(str(path), "ours")
    assert raised.value.hint is not None
    subprocess.run(["bash", "-c", raised.value.hint], check=True)
    write_file(str(path), "ours")
    assert path.read_text() == "ours" and path.with_name("unit.mine").read_text() == "theirs"


def test_forced_systemd_without_a_manager_writes_nothing(world: World) -> None:
    world.add("systemctl", "loginctl")
    assert world.boot("enable", "--scheduler", "systemd").exit_status == 1
    assert not world.unit().exists()


def test_unit_of_another_version_is_reported(world: World) -> None:
    world.add("systemctl", "loginctl")
    for name in ("manager", "linger"):
        (world.state / name).touch()
    world.boot("enable")
    world.unit().write_text(world.unit().read_text().replace("recover --all", "recover --all --wait 1"))
    run = world.boot("status")
    assert (run.exit_status, run.json["troubles"][0]["next"]) == (4, "gitstate boot enable")
    assert world.boot("enable").exit_status == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason=not_installed("systemd-analyze"))
def test_units_pass_systemd_analyze_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # The sockets of the user's other units are there: their paths have at most 107 bytes.
    runtime = tempfile.mkdtemp()
    request.addfinalizer(lambda: shutil.rmtree(runtime))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(schedulers, "needed_environment", lambda: {"PATH": '/a "b" 100% \\ $HOME:/bin'})
    program = tmp_path / 'x "y" 100% $HOME' / "gitstate"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for words in (command(), (str(program),)):
        monkeypatch.setattr("gitstate.integrations.schedulers.command", lambda words=words: words)
        units = tmp_path / "units"
        units.mkdir(exist_ok=True)
        for name in schedulers._UNITS:
            (units / name).write_text(schedulers._unit(name))
        shutil.copy(units / "agent-loop@.service", units / "agent-loop@tmp-my\\x20work.service")
        argv = ["systemd-analyze", "verify", "--user", *(str(path) for path in sorted(units.iterdir()))]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8")
        if "Failed to initialize manager" in done.stderr:
            pytest.skip(f"systemd-analyze must find control groups: run on a booted system ({done.stderr.strip()})")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "status", "signal", "exit_code"),
    [("killed", "KILL", "KILL", None), ("exited", "3", None, 3), ("exited", "0", None, None)],
)
def test_unit_saves_after_the_loop_for_every_exit_cause(
    code: str, status: str, signal: str | None, exit_code: int | None, templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    (line,) = [
        line for line in schedulers._unit("agent-loop@.service").splitlines() if line.startswith("ExecStopPost=")
    ]
    words = json.loads("[" + json.dumps(line.partition("=")[2]) + "]")[0]
    script = words.replace("$$", "$").replace("${SERVICE_RESULT}", "signal")
    environment = {**os.environ, "EXIT_CODE": code, "EXIT_STATUS": status}
    subprocess.run(["bash", "-c", script], cwd=ws.path, env=environment, check=True, capture_output=True)
    saves = ws.gitstate("log", "--json").json["saves"]
    reasons = [save["manifest"]["reason"] for save in saves]
    expected = [{"signal": signal, "exit_code": exit_code, "detail": "signal"}] if status != "0" else []
    assert reasons == expected


# --------------------------------------------------------------------------------------------------------------------
# cron
# --------------------------------------------------------------------------------------------------------------------

OTHERS = [b"", b"5 4 * * * /usr/bin/true\n", b"MAILTO=me\n@reboot /bin/other", b"# \xff\xfe\n\n\n"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("before", OTHERS)
def test_cron_keeps_every_other_line(before: bytes, world: World) -> None:
    world.add("crontab")
    crontab = world.state / "crontab"
    if before:
        crontab.write_bytes(before)
    for _ in range(2):
        assert world.boot("enable").json["scheduler"] == "cron"
        assert crontab.read_bytes().startswith(before.rstrip(b"\n"))
        assert crontab.read_bytes().count(b"\n@reboot ") == (2 if b"/bin/other" in before else 1)
        assert crontab.read_bytes().count(b" recover --all ") == 1
    assert world.calls().count("crontab -") == 1, "what is there already is not written again"
    assert world.boot("disable").exit_status == 0
    assert crontab.read_bytes() == (before if before.endswith(b"\n") or not before else before + b"\n")


def test_unreadable_crontab_is_not_overwritten(world: World) -> None:
    world.add("crontab")
    script = world.bin / "crontab"
    script.write_text(f"#!/bin/sh\n[ $1 = -l ] && {{ echo 'not allowed' >&2; exit 1; }}\ntouch {world.state}/written\n")
    assert world.boot("enable", "--scheduler", "cron").exit_status == 1
    assert not (world.state / "written").exists()


def test_cron_line_recovers_with_an_empty_environment(
    world: World, templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cron runs it: `sh -c` with almost nothing set, and `\\%` for a per cent sign."""
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    status = ws.status()
    assert ws.save().exit_status == 0
    world.add("crontab")
    world.boot("enable")
    (line,) = [x for x in (world.state / "crontab").read_text().splitlines() if x.startswith("@reboot ")]
    command = line.removeprefix("@reboot ").replace("\\%", "%")
    assert all(word.startswith("/") for word in command.rpartition("' ")[2].split())
    done = subprocess.run(["env", "-i", "/bin/sh", "-c", command], capture_output=True, cwd="/", timeout=120)
    log = world.home / ".local" / "state" / "gitstate" / "boot.log"
    assert done.returncode == 0, (done.stderr, command, log.read_text() if log.exists() else "")
    assert ws.status() == status, (command, log.read_text())
    assert done.stdout == b"" and done.stderr == b"", "nobody may read cron's mail"
    if not is_system_log():
        assert str(ws.path) in log.read_text()


def is_system_log() -> bool:
    return any(Path(path).is_socket() for path in ("/dev/log", "/var/run/log"))


def test_cron_line_keeps_its_words_and_looks_again_at_status_75(world: World) -> None:
    """`logger` is played: it is there or not. `sleep` too."""
    world.add("crontab")
    world.boot("enable")
    (line,) = [x for x in (world.state / "crontab").read_text().splitlines() if x.startswith("@reboot ")]
    line = line.removeprefix("@reboot ").replace("\\%", "%")
    script = line[line.index("/bin/sh -c '") + len("/bin/sh -c '") : line.rindex("' ")]
    tries = world.state / "tries"
    program = world.bin / "program"
    program.write_text(f"#!/bin/sh\necho once >>{tries}; echo words; [ $(grep -c once {tries}) = 3 ] || exit 75\n")
    program.chmod(0o755)
    (world.bin / "sleep").write_text(f"#!/bin/sh\necho $1 >>{world.state}/slept\n")
    (world.bin / "sleep").chmod(0o755)
    (world.bin / "mkdir").symlink_to(shutil.which("mkdir") or "mkdir")
    log = world.state / "new" / "boot.log"
    environment = {"PATH": str(world.bin)}
    done = subprocess.run(["/bin/sh", "-c", script, log, program], env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert log.read_text() == "words\n" * 3
    assert (world.state / "slept").read_text() == "30\n30\n"
    logger = world.bin / "logger"
    logger.write_text(f"#!/bin/sh\ncat >>{world.state}/logged\n")
    logger.chmod(0o755)
    subprocess.run(["/bin/sh", "-c", script, log, program], env=environment, check=False)
    assert (world.state / "logged").read_text().startswith("words\n")


def test_units_keep_the_loop_alive_and_look_again(world: World) -> None:
    recover, loop = (schedulers._unit(name).splitlines() for name in schedulers._UNITS)
    assert {"SyslogIdentifier=gitstate", "Restart=on-failure", "SuccessExitStatus=4"} <= set(recover)
    assert {"OOMPolicy=continue", "SyslogIdentifier=agent-loop"} <= set(loop)
    (limit,) = (int(line.partition("=")[2]) for line in loop if line.startswith("TimeoutStopSec="))
    (last,) = (line for line in loop if line.startswith("ExecStopPost="))
    assert 0 < int(last.partition(" --deadline ")[2].split()[0]) < limit - 5


# --------------------------------------------------------------------------------------------------------------------
# launchd, and what else there is
# --------------------------------------------------------------------------------------------------------------------


def test_launchd_enable_is_idempotent(world: World) -> None:
    world.add("launchctl")
    path = world.home / "Library" / "LaunchAgents" / "org.gitstate.recover.plist"
    for _ in range(2):
        assert world.boot("enable").json["scheduler"] == "launchd"
    value = plistlib.loads(path.read_bytes())
    assert value["ProgramArguments"][-2:] == ["recover", "--all"]
    assert os.path.isabs(value["ProgramArguments"][0]) and value["RunAtLoad"]
    assert sum(call.startswith("launchctl bootstrap") for call in world.calls()) == 1
    assert world.boot("disable").exit_status == 0
    assert not path.exists() and not (world.state / "loaded").exists()


def test_enable_without_a_scheduler_prints_what_to_do(world: World) -> None:
    run = world.boot("enable")
    assert run.exit_status == 4
    assert "gitstate recover --all" in run.stderr


def test_second_scheduler_replaces_the_first(world: World) -> None:
    world.add("systemctl", "loginctl", "crontab")
    assert world.boot("enable").json["scheduler"] == "cron"
    for name in ("manager", "linger"):
        (world.state / name).touch()
    assert world.boot("enable").json["scheduler"] == "systemd"
    assert b"@reboot" not in (world.state / "crontab").read_bytes()
