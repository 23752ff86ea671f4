"""No program that a repository's configuration or hooks name is ever run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.workspace import Workspace

from .watch import Watch, dirty_repository, everything

PROGRAMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    *(
        (name, str)
        for name in (
            "core.fsmonitor",
            "core.editor",
            "sequence.editor",
            "core.pager",
            "core.askPass",
            "core.sshCommand",
            "core.gitProxy",
            "core.alternateRefsCommand",
            "gpg.program",
            "gpg.ssh.program",
            "gpg.x509.program",
            "diff.external",
            "diff.evil.command",
            "diff.evil.textconv",
            "merge.evil.driver",
            "interactive.diffFilter",
            "credential.helper",
            "uploadpack.packObjectsHook",
            "gc.recentObjectsHook",
            "trailer.gitstate.command",
            "trailer.gitstate.cmd",
            "pager.log",
            "pager.diff",
            "pager.status",
            "browser.evil.cmd",
            "web.browser",
            "hook.evil.command",
            "sendemail.smtpserver",
            "man.evil.cmd",
            "difftool.evil.cmd",
            "mergetool.evil.cmd",
        )
    ),
    *((f"alias.{verb}", "!{}".format) for verb in ("status", "update-ref", "cat-file", "log", "diff", "rev-parse")),
    ("submodule.evil.update", "!{}".format),
    ("remote.origin.url", "ext::{}".format),
)

HOOKS = (
    *("pre-commit", "commit-msg", "post-commit", "post-checkout", "post-merge", "pre-rebase", "post-rewrite"),
    *("reference-transaction", "post-index-change", "fsmonitor-watchman", "pre-auto-gc", "applypatch-msg"),
    *("prepare-commit-msg", "update", "pre-push", "sendemail-validate", "push-to-checkout"),
)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return dirty_repository(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("hooks", ["in .git", "elsewhere"])
def test_programs_of_configuration_and_hooks_never_run(
    hooks: str, ws: Workspace, tmp_path: Path, hermetic: Path
) -> None:
    ws.write(".gitattributes", "* diff=evil merge=evil\n")
    ws.commit("attributes")
    for number, (name, as_value) in enumerate(PROGRAMS):
        ws.git("config", name, as_value(str(ws.canary(f"p{number}"))))
    for name, value in {
        "commit.gpgSign": "true",
        "tag.gpgSign": "true",
        "core.fsmonitorHookVersion": "2",
        "hook.evil.event": "reference-transaction",
        "diff.evil.cachetextconv": "true",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "gc.auto": "1",
        "maintenance.auto": "true",
        "protocol.ext.allow": "always",
    }.items():
        ws.git("config", name, value)
    directory = ws.git_dir / "hooks" if hooks == "in .git" else ws.outside / "hooks"
    directory.mkdir(exist_ok=True)
    for name in HOOKS:
        script = ws.canary(f"hook-{name}")
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(script)
    if hooks == "elsewhere":
        ws.git("config", "core.hooksPath", directory)
    ws.write("a", "a2\n")
    ws.write("new/u", "u\n")
    watch = Watch(ws, tmp_path, hermetic)
    run = ws.save()
    assert run.exit_status == 0, str(run)
    everything(ws, run.json["save_id"])
    watch.check()
    assert ws.read("a") == b"a2\n"
