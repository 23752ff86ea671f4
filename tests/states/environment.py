"""Configuration, hooks, environment."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from tests.states.names import _names
from tests.states.ordinary import DIRTY, _modes, dirty
from tests.states.registry import EVERYWHERE, HERE, LOCAL, NO_PLAIN, Loss, state
from tests.support.workspace import Workspace, run_git


@state(losses=LOCAL, linked=True)
def no_identity(ws: Workspace) -> None:
    dirty(ws)
    ws.git("config", "--global", "--remove-section", "user")
    ws.config("user.useConfigOnly", "true")
    ws.fails("commit", "-q", "-m", "who am I?")
    ws.expect_exactly(*DIRTY)


HOOKS = (
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "reference-transaction",
)


def install_hooks(ws: Workspace, directory: Path, body: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    trace = ws.outside / "canary-hook"
    ws.canaries.append(trace)
    for name in HOOKS:
        (directory / name).write_text(f"#!/bin/sh\necho {name} >>{shlex.quote(str(trace))}\n{body}\n")
        (directory / name).chmod(0o755)


@state(quick=LOCAL, losses=LOCAL, linked=True)
def hooks_that_fail(ws: Workspace) -> None:
    dirty(ws)
    install_hooks(ws, ws.common_dir / "hooks", "exit 1")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def hooks_that_scribble(ws: Workspace) -> None:
    dirty(ws)
    install_hooks(ws, ws.common_dir / "hooks", 'echo "$0" >>a.txt; echo "$0" >scribble.txt; git add -A; exit 0')
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def hooks_in_the_worktree(ws: Workspace) -> None:
    dirty(ws)
    ws.config("core.hooksPath", ".githooks")
    install_hooks(ws, ws.path / ".githooks", "exit 1")
    ws.expect(*DIRTY, "?? .githooks/pre-commit")


@state(losses=LOCAL)
def signing_that_fails(ws: Workspace) -> None:
    dirty(ws)
    program = ws.canary("gpg")
    for name in ("commit", "tag", "push"):
        ws.config(f"{name}.gpgSign", "true" if name != "push" else "if-asked")
    for name in ("gpg.program", "gpg.ssh.program", "gpg.x509.program"):
        ws.config(name, program)
    ws.config("user.signingKey", "0xDEADBEEF")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def programs_in_the_config(ws: Workspace) -> None:
    dirty(ws)
    program = str(ws.canary("program"))
    for name in (
        "core.pager",
        "core.editor",
        "sequence.editor",
        "core.askPass",
        "core.sshCommand",
        "credential.helper",
        "diff.external",
        "diff.mine.command",
        "diff.mine.textconv",
        "merge.mine.driver",
        "interactive.diffFilter",
        "pager.status",
        "pager.log",
        "trailer.mine.cmd",
        "browser.mine.cmd",
        "man.viewer",
        "core.alternateRefsCommand",
        "uploadpack.packObjectsHook",
        "web.browser",
        "diff.tool",
        "difftool.mine.cmd",
        "core.gitProxy",
        "gc.recentObjectsHook",
    ):
        ws.config(name, program)
    for name in ("status", "add", "commit", "update-ref", "cat-file", "rev-parse", "commit-tree", "checkout-index"):
        ws.config(f"alias.{name}", f"!{program}")
    ws.write(".gitattributes", "* diff=mine merge=mine\n")
    ws.expect(*DIRTY)


@state(losses=LOCAL)
def config_that_changes_output(ws: Workspace) -> None:
    dirty(ws)
    for name, value in {
        "status.short": "true",
        "status.branch": "true",
        "status.showStash": "true",
        "status.relativePaths": "false",
        "status.renames": "copies",
        "status.aheadBehind": "true",
        "status.submoduleSummary": "true",
        "color.ui": "always",
        "color.status": "always",
        "color.diff": "always",
        "core.abbrev": "4",
        "core.quotePath": "false",
        "diff.noprefix": "true",
        "diff.renames": "copies",
        "diff.mnemonicPrefix": "true",
        "diff.orderFile": str(ws.outside / "order"),
        "diff.submodule": "log",
        "log.showSignature": "true",
        "log.date": "relative",
        "format.pretty": "oneline",
        "i18n.logOutputEncoding": "ISO-8859-1",
        "i18n.commitEncoding": "ISO-8859-1",
        "core.commentChar": "T",
        "commit.cleanup": "scissors",
        "commit.template": "/no/such/file",
        "commit.verbose": "true",
        "trailer.separators": "%",
        "trailer.ifexists": "replace",
        "trailer.where": "start",
        "core.compression": "9",
        "core.bigFileThreshold": "1",
        "core.preloadIndex": "false",
        "index.threads": "1",
        "core.checkStat": "minimal",
        "core.trustctime": "false",
        "core.warnAmbiguousRefs": "true",
        "core.ignoreStat": "false",
        "core.precomposeUnicode": "true",
        "core.protectHFS": "true",
        "core.whitespace": "trailing-space",
        "apply.whitespace": "fix",
        "pack.threads": "1",
        "pack.indexVersion": "2",
        "pack.packSizeLimit": "1m",
        "pack.writeReverseIndex": "true",
        "transfer.fsckObjects": "true",
        "fsck.zeroPaddedFilemode": "ignore",
        "log.excludeDecoration": "refs/gitstate/*",
        "rerere.enabled": "true",
        "submodule.recurse": "true",
        "advice.statusHints": "true",
        "ui.editor": "x",
        "gc.auto": "1",
        "gc.pruneExpire": "now",
        "gc.reflogExpire": "now",
        "maintenance.auto": "true",
    }.items():
        ws.config(name, value)
    (ws.outside / "order").write_text("z*\n")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def gc_due(ws: Workspace) -> None:
    """One object more and git would start a gc; a crashing process has no time for that."""
    dirty(ws)
    for number in range(12):
        ws.git("hash-object", "-w", "--stdin", stdin=b"loose %d\n" % number)
    ws.config("gc.auto", "1")
    ws.config("gc.autoPackLimit", "1")
    ws.config("gc.autoDetach", "false")
    install_hooks(ws, ws.git_dir / "hooks", "exit 0")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def core_filemode_false(ws: Workspace) -> None:
    ws.config("core.fileMode", "false")
    ws.append("a.txt")
    ws.chmod("a.txt", 0o755)
    ws.chmod("b.txt", 0o755)
    ws.write("untracked.sh", "#!/bin/sh\n", 0o755)
    ws.append("bin/run.sh", "echo more\n")
    ws.git("update-index", "--chmod=+x", "c.txt")
    ws.expect_exactly(" M a.txt", "M  c.txt", " M bin/run.sh", "?? untracked.sh")


@state(losses=LOCAL)
def core_symlinks_false(ws: Workspace) -> None:
    """Symlinks stand on the disk as small files."""
    ws.symlink("c.txt", "second")
    ws.commit("links")
    ws.config("core.symlinks", "false")
    for path in ("link", "second"):
        ws.remove(path)
        ws.git("checkout", "-q", "--", path)
    assert not os.path.islink(ws.at("link"))
    ws.write("link", "README.md")
    ws.append("a.txt")
    ws.expect_exactly(" M link", " M a.txt")


@state(losses=NO_PLAIN, quick=HERE | {Loss.BASE, Loss.CLONED}, linked=True)
def core_symlinks_false_beside_real_ones(ws: Workspace) -> None:
    """As in a directory that is shared with a system that has none."""
    ws.symlink("c.txt", "tracked")
    ws.commit("links")
    ws.config("core.symlinks", "false")
    ws.symlink("a.txt", "untracked")
    ws.symlink("nowhere", "fresh/untracked")
    ws.symlink("b.txt", "staged")
    ws.add("staged")
    ws.remove("tracked")
    ws.symlink("b.txt", "tracked")
    ws.write("file.txt", "a.txt")
    ws.append("a.txt")
    ws.expect_exactly("A  staged", " M tracked", " M a.txt", "?? untracked", "?? fresh/untracked", "?? file.txt")


@state(losses=LOCAL)
def core_ignorecase_true(ws: Workspace) -> None:
    ws.config("core.ignoreCase", "true")
    dirty(ws)
    ws.write("Notes/Todo.txt", "another directory than notes\n")
    ws.expect_exactly(*DIRTY, "?? Notes/Todo.txt")


@state(losses=NO_PLAIN, may_leave_out=["NEW.TXT"], save_exits=[0, 4])
def core_ignorecase_hides_a_file(ws: Workspace) -> None:
    """On a file system that does tell the two apart, git shows only one of them."""
    ws.config("core.ignoreCase", "true")
    dirty(ws)
    ws.write("NEW.TXT", "another file than new.txt\n")
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def shared_repository(ws: Workspace) -> None:
    ws.config("core.sharedRepository", "group")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def fsync_everything(ws: Workspace) -> None:
    ws.config("core.fsync", "all")
    ws.config("core.fsyncMethod", "batch")
    dirty(ws)
    ws.expect_exactly(*DIRTY)


def leak(ws: Workspace, *names: str) -> None:
    """Another repository's variables are in the environment, as inside of a hook."""
    other = ws.outside / "other"
    run_git(ws.outside, "init", "-q", other)
    (other / "theirs.txt").write_text("theirs\n")
    run_git(other, "add", "theirs.txt")
    run_git(other, "commit", "-q", "-m", "theirs")
    ws.bystanders.append(other)
    values = {
        "GIT_DIR": other / ".git",
        "GIT_COMMON_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git" / "index",
        "GIT_OBJECT_DIRECTORY": other / ".git" / "objects",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": other / ".git" / "objects",
        "GIT_NAMESPACE": "theirs",
        "GIT_PREFIX": "src/",
        "GIT_QUARANTINE_PATH": other / ".git" / "objects",
        "GIT_SHALLOW_FILE": "/dev/null",
        "GIT_GRAFT_FILE": "/dev/null",
        "GIT_REPLACE_REF_BASE": "refs/theirs/",
        "GIT_CEILING_DIRECTORIES": ws.path.parent,
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ICASE_PATHSPECS": "1",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_INTERNAL_SUPER_PREFIX": "sub/",
        "GIT_CONFIG": "/dev/null",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": other,
        "GIT_CONFIG_PARAMETERS": "'core.bare'='true'",
        "GIT_OPTIONAL_LOCKS": "1",
        "GIT_TRACE": "1",
        "GIT_TRACE2_EVENT": ws.outside / "trace",
        "GIT_FLUSH": "0",
        "GIT_REFLOG_ACTION": "commit (amend)",
        "GIT_AUTHOR_DATE": "nonsense",
        "GIT_COMMITTER_DATE": "nonsense",
        "GIT_AUTHOR_NAME": "",
        "GIT_COMMITTER_EMAIL": "",
        "GIT_TEST_FSYNC": "0",
        "GIT_EDITOR": ws.canary("editor"),
        "GIT_SEQUENCE_EDITOR": ws.canary("editor"),
        "GIT_PAGER": ws.canary("pager"),
        "GIT_ASKPASS": ws.canary("askpass"),
        "SSH_ASKPASS": ws.canary("askpass"),
        "GIT_EXTERNAL_DIFF": ws.canary("diff"),
        "GIT_SSH_COMMAND": ws.canary("ssh"),
        "GIT_PROXY_COMMAND": ws.canary("proxy"),
        "GIT_ATTR_NOSYSTEM": "1",
        "CDPATH": ws.outside,
        "IFS": "/",
        "LC_ALL": "de_DE.UTF-8",
        "LANGUAGE": "de",
        "POSIXLY_CORRECT": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONUTF8": "0",
        "COLUMNS": "20",
        "TZ": "Asia/Kathmandu",
    }
    ws.cli_env = {name: str(value) for name, value in values.items() if not names or name in names}
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(losses=LOCAL)
def leaked_git_dir(ws: Workspace) -> None:
    leak(ws, "GIT_DIR", "GIT_WORK_TREE")


@state(losses=LOCAL)
def leaked_git_index_file(ws: Workspace) -> None:
    leak(ws, "GIT_INDEX_FILE")


@state(losses=LOCAL)
def leaked_git_object_directory(ws: Workspace) -> None:
    leak(ws, "GIT_OBJECT_DIRECTORY")


@state(losses=LOCAL, quick=LOCAL, linked=True)
def leaked_environment(ws: Workspace) -> None:
    leak(ws)


@state(losses=LOCAL)
def inside_a_hook_of_the_same_repository(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_env = {"GIT_DIR": ".git", "GIT_INDEX_FILE": ".git/index", "GIT_PREFIX": "", "GIT_WORK_TREE": "."}


@state(losses=LOCAL)
def locale_c(ws: Workspace) -> None:
    _names(ws, b"caf\xe9", "\u00fcber", "\u6f22\n")
    ws.cli_env = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ws.cli_env |= {"PYTHONIOENCODING": "ascii"}


@state(quick=HERE | {Loss.REMOVED})
def umask_077(ws: Workspace) -> None:
    _modes(ws, 0o644)
    ws.write("open.sh", "#!/bin/sh\n", 0o755)
    ws.mkdir("open-directory", 0o755)
    ws.cli_umask = 0o077


@state()
def umask_000(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_umask = 0


@state(losses=NO_PLAIN)
def reached_through_a_symlink(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.cli_path = ws.outside / "way in"
    ws.cli_path.symlink_to(ws.path)


@state(directory="re po 'x'\n\u00fc $(touch pwned)", quick=EVERYWHERE, linked=True)
def odd_path_of_the_workspace(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
    ws.canaries += [ws.path / "pwned", ws.outside / "pwned"]


@state(directory="-rf")
def path_of_the_workspace_with_dash(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)


@state(directory=os.fsdecode(b"caf\xe9"))
def path_of_the_workspace_not_utf8(ws: Workspace) -> None:
    dirty(ws)
    ws.expect_exactly(*DIRTY)
