"""What a push sends, what it holds back, and what it says."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.states import dirty
from tests.support.agents import ends, wait_until
from tests.support.remotes import clone, remote_refs
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def ws(published: Workspace) -> Workspace:
    return published


def pre_push(ws: Workspace, script: str) -> None:
    hook = ws.git_dir / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


@pytest.mark.parametrize("command", ["push", "fetch"])
def test_exchange_that_is_ended_goes_on_in_no_other_process(command: str, ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    assert ws.save().exit_status == 0
    ready = tmp_path / "ready"
    # Git waits for it, as for a host that does not answer.
    ws.config("core.sshCommand", f"echo $$ >{ready}.new; mv {ready}.new {ready}; exec sleep 600;")
    argv = [sys.executable, "-m", "gitstate", command, "ssh://host.invalid/repository"]
    with subprocess.Popen(argv, cwd=ws.path, stderr=subprocess.DEVNULL) as exchange:
        try:
            wait_until(ready.exists, "git asks the remote")
            exchange.terminate()
            assert exchange.wait(60) == -signal.SIGTERM
            assert ends(int(ready.read_text()))
        finally:
            exchange.kill()


def test_push_obeys_the_pre_push_hook(ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    ws.save()
    before = remote_refs(ws)
    pre_push(ws, "echo 'no \033[31msecrets leave this host' >&2; exit 1")
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "secrets leave this host" in run.stderr and "\033" not in run.stderr, run
    assert remote_refs(ws) == before
    pre_push(ws, f"cat > {tmp_path}/told; git ls-files -- 'a.*' >> {tmp_path}/told")
    assert ws.gitstate("push", "origin").exit_status == 0
    told = (tmp_path / "told").read_text()
    assert "refs/" in told and "a.txt" in told, "the hook gets git as its author knows it"
    assert remote_refs(ws) != before


def test_push_obeys_the_hook_where_core_hookspath_leads(ws: Workspace) -> None:
    ws.write("my-hooks/pre-push", "#!/bin/sh\necho not today >&2; exit 1\n", 0o755)
    ws.git("config", "core.hooksPath", "my-hooks")
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "not today" in run.stderr, run


def test_push_passes_the_hook_of_gitstate(ws: Workspace) -> None:
    assert ws.gitstate("install").exit_status == 0
    dirty(ws)
    ws.save()
    assert ws.gitstate("push", "origin").exit_status == 0
    assert [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]


def test_save_that_the_remote_refuses_blocks_no_other(ws: Workspace, tmp_path: Path) -> None:
    run_git(tmp_path / "origin.git", "config", "receive.fsckObjects", "true")
    ws.write(".gitattributes", "x" * 2100 + "\n")
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "gitattributes" in run.stderr, run
    ws.recover()
    (ws.path / ".gitattributes").unlink()
    ws.write("good.txt", "good\n")
    save_id = ws.save().json["save_id"]
    run = ws.gitstate("push", "origin", "--json")
    assert (run.exit_status, run.json["saves"]) == (0, [save_id]), run
    assert [item["held_back"] for item in run.json["not_sent"]] == [False]


@pytest.mark.parametrize("setting", ["remote.origin.pushurl", "url.{pushed}.pushInsteadOf"])
def test_push_goes_by_what_is_where_it_goes(setting: str, ws: Workspace, tmp_path: Path) -> None:
    """It is another repository than that from which saves are fetched."""
    read, pushed = tmp_path / "read.git", tmp_path / "origin.git"
    run_git(tmp_path, "clone", "-q", "--bare", str(pushed), str(read))
    ws.git("remote", "set-url", "origin", str(read))
    name = setting.format(pushed=pushed)
    ws.git("config", name, str(read if "insteadof" in name.lower() else pushed))
    for content in ("one", "two"):
        ws.write("work.txt", content)
        ws.save()
        run = ws.gitstate("push", "origin", "--json")
        assert (run.exit_status, len(run.json["saves"]), len(run.json["waiting"])) == (0, 1, 1), run
    assert ws.refs("refs/gitstate/pending/").items() <= remote_refs(ws).items()
    ws.recover()
    assert len(ws.gitstate("push", "origin", "--json").json["recovered"]) == 1
    assert not [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]
    assert b"gitstate" not in run_git(read, "for-each-ref")


def test_push_says_that_a_recovered_save_stays_pending_on_the_remote(ws: Workspace, tmp_path: Path) -> None:
    ws.write("work.txt")
    ws.save()
    ws.gitstate("push", "origin")
    ws.recover()
    hook = tmp_path / "origin.git" / "hooks" / "update"
    hook.write_text("#!/bin/sh\ncase $3 in 000*) echo no deletions here >&2; exit 1;; esac\n")
    hook.chmod(0o755)
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "no deletions here" in run.stderr and "no longer pending" not in run.stderr, run
    assert [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]
    hook.unlink()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 0 and "no longer pending on origin" in run.stderr, run


def test_words_of_the_remote_are_shown_escaped(ws: Workspace, tmp_path: Path) -> None:
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nprintf 'the \\033[31mdisk is full\\n' >&2\nexit 1\n")
    hook.chmod(0o755)
    dirty(ws)
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 1 and "disk is full" in run.stderr and "\033" not in run.stderr, run
    assert "does not appear to be a git repository" in ws.gitstate("push", str(tmp_path / "nowhere")).stderr


def test_plain_text_behind_an_encrypting_filter_stays_here(ws: Workspace, tmp_path: Path) -> None:
    ws.git("config", "filter.crypt.clean", "sed 's/^/@@/' | tr a-z n-za-m")
    ws.git("config", "filter.crypt.smudge", "sed 's/^@@//' | tr a-z n-za-m")
    ws.git("config", "filter.crypt.required", "true")
    ws.write(".gitattributes", "*.secret filter=crypt\n")
    ws.write("key.secret", "secret-of-the-base\n")
    ws.commit()
    ws.write("key.secret", "secret-of-the-edit\n")
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 4 and "key.secret" in run.stderr, run
    ws.recover()
    ws.git("checkout", "-q", "key.secret")
    ws.write("plain.txt", "no secret\n")
    ws.save()
    ws.gitstate("push", "origin")
    listed = run_git(tmp_path / "origin.git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    blobs = [run_git(tmp_path / "origin.git", "cat-file", "-p", oid) for oid in listed.decode().split()]
    assert not [blob for blob in blobs if b"secret-of-the" in blob]


def test_plain_text_stays_here_where_the_attributes_that_guarded_it_are_gone(ws: Workspace, tmp_path: Path) -> None:
    ws.git("config", "filter.crypt.clean", "tr a-z n-za-m")
    ws.git("config", "filter.crypt.smudge", "tr a-z n-za-m")
    ws.write(".gitattributes", "*.secret filter=crypt\n")
    ws.write("key.secret", "secret-of-the-base\n")
    ws.commit()
    ws.remove(".gitattributes")
    ws.write("key.secret", "secret-of-the-edit\n")
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 4 and "key.secret" in run.stderr, run


@pytest.mark.parametrize(("content", "status"), [("secret\n", 4), ("\0GITCRYPT\0...", 0)])
def test_plain_text_stays_here_where_the_encrypting_filter_is_not_set_up(
    content: str, status: int, ws: Workspace
) -> None:
    """As in a clone that nobody unlocked: there git itself stores what is on the disk."""
    ws.write(".gitattributes", "*.secret filter=git-crypt diff=git-crypt\n")
    ws.commit()
    ws.write("key.secret", content)
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == status and ("key.secret" in run.stderr) == bool(status), run


def test_push_to_a_mirror_sends_what_is_named_alone(ws: Workspace) -> None:
    """By itself git takes no refspecs there."""
    ws.git("config", "remote.origin.mirror", "true")
    ws.git("branch", "stays-here")
    dirty(ws)
    ws.save()
    assert ws.gitstate("push", "origin").exit_status == 0
    there = remote_refs(ws)
    assert [ref for ref in there if ref.startswith("refs/gitstate/pending/")]
    assert "refs/heads/stays-here" not in there


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["no such", "it's", "a;touch canary", "$(touch canary)"])
def test_command_for_a_remote_that_cannot_be_reached_names_that_remote(name: str, ws: Workspace) -> None:
    ws.save()
    url = str(ws.outside / name)
    for command in ("push", "fetch"):
        run = ws.gitstate(command, url)
        hint = run.stderr.rpartition("  next: ")[2]
        assert run.exit_status == 1 and shlex.split(hint) == ["git", "-C", str(ws.path), "ls-remote", url], run


def test_password_in_a_url_is_printed_nowhere(ws: Workspace) -> None:
    url = "https://agent:s3cr3t@localhost:1/x.git"
    ws.save()
    for command in ("push", "fetch"):
        run = ws.gitstate(command, url)
        assert run.exit_status == 1 and f"next: git -C {ws.path} ls-remote https://localhost:1/x.git" in run.stderr, run
        assert "s3cr3t" not in run.stderr and b"s3cr3t" not in run.stdout


def test_push_says_what_a_scanner_found(ws: Workspace, tmp_path: Path) -> None:
    scanner = tmp_path / "bin" / "detect-secrets"
    scanner.parent.mkdir()
    scanner.write_text(
        '#!/bin/sh\nfile=$(cd "$2" && grep -rl AKIA .) || { echo \'{"results": {}}\'; exit; }\n'
        'printf \'{"results": {"%s": [{"type": "AWS key"}]}}\' "$file"\n'
    )
    scanner.chmod(0o755)
    ws.cli_env = {"PATH": f"{scanner.parent}:{os.environ['PATH']}"}
    ws.write("keys.txt", "AKIAIOSFODNN7EXAMPLE\n")
    ws.save()
    before = remote_refs(ws)
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 4 and "detect-secrets found a secret in keys.txt (AWS key)" in run.stderr, run
    assert not [ref for ref in remote_refs(ws) if ref not in before and ref.startswith("refs/gitstate/")]
    assert ws.gitstate("push", "origin", "--allow-secrets").exit_status == 0
    scanner.write_text("#!/bin/sh\necho broken >&2\nexit 2\n")
    ws.recover()
    ws.write("more.txt", "more\n")
    ws.save()
    run = ws.gitstate("push", "origin")
    assert run.exit_status == 4 and "detect-secrets failed (2): broken" in run.stderr, run


def test_hosts_that_push_at_once_lose_no_note(ws: Workspace) -> None:
    hosts = [clone(ws, f"host{number}") for number in range(4)]
    for number, host in enumerate(hosts):
        host.write("work.txt", f"{number}\n")
        host.save()
    command = [sys.executable, "-m", "gitstate", "push", "origin"]
    running = [subprocess.Popen(command, cwd=host.path, stderr=subprocess.PIPE) for host in hosts]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    notes = run_git(ws.path.parent / "origin.git", "notes", "--ref=gitstate", "list").split(b"\n")[:-1]
    markers = [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]
    assert (len(notes), len(markers)) == (4, 4)


def test_push_that_sends_nothing_says_why(ws: Workspace) -> None:
    assert "no save" in ws.gitstate("push", "origin").stderr
    dirty(ws)
    ws.save()
    ws.gitstate("push", "origin")
    assert "1 save there already" in ws.gitstate("push", "origin").stderr


def test_lock_reaches_no_child_of_a_push(ws: Workspace, tmp_path: Path) -> None:
    """Git may leave a daemon behind that keeps passwords."""
    dirty(ws)
    ws.save()
    pre_push(ws, f"ls -l /proc/$$/fd > {tmp_path}/open")
    assert ws.gitstate("push", "origin").exit_status == 0
    assert (tmp_path / "open").read_text() and "gitstate/lock" not in (tmp_path / "open").read_text()
