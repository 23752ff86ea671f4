"""Why a test is skipped, and what to install or set to have it run. Every reason of a skip is made here."""

from __future__ import annotations

import importlib.util
import os
import shutil

#: How to install each program that a test needs.
INSTALL = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "busybox": "apt-get install busybox",
    "codex": "npm install -g @openai/codex",
    "copilot": "npm install -g @github/copilot",
    "gemini": "npm install -g @google/gemini-cli",
    "kimi": "npm install -g @moonshot-ai/kimi-code",
    "opencode": "npm install -g opencode-ai",
    "qwen": "npm install -g @qwen-code/qwen-code",
    "dash": "apt-get install dash",
    "dbus-run-session": "apt-get install dbus-daemon",
    "git-annex": "apt-get install git-annex",
    "git-crypt": "apt-get install git-crypt",
    "git-lfs": "apt-get install git-lfs",
    "ksh": "apt-get install ksh",
    "lefthook": "pip install -e '.[test]'",
    "man": "apt-get install man-db",
    "mandoc": "apt-get install mandoc",
    "mksh": "apt-get install mksh",
    "node": "apt-get install nodejs",
    "mkfs.exfat": "apt-get install exfatprogs",
    "mount.exfat-fuse": "apt-get install exfat-fuse",
    "mkfs.btrfs": "apt-get install btrfs-progs",
    "mkfs.ext4": "apt-get install e2fsprogs",
    "mkfs.xfs": "apt-get install xfsprogs",
    "psutil": "pip install -e '.[test]'",
    "pre-commit": "pip install -e '.[test]'",
    "setpriv": "apt-get install util-linux",
    "shellcheck": "pip install -e '.[test]'",
    "strace": "apt-get install strace",
    "systemctl": "apt-get install systemd",
    "systemd-analyze": "apt-get install systemd",
    "systemd-run": "apt-get install systemd",
    "tmux": "apt-get install tmux",
    "unshare": "apt-get install util-linux",
    "zsh": "apt-get install zsh",
}

NO_REFTABLE = "reftable needs git 2.45 or newer"
NO_REF_STORAGE = "refs outside of the repository need git 2.54 or newer"
NO_MIGRATION = "to migrate refs with their logs needs git 2.48 or newer"
NO_SUBMODULE_PATHS = "submodules at configured places need git 2.54 or newer"
NOT_ROOT = "needs root: run pytest as root"
NO_MANAGER = "no systemd user manager can be started: run as root, in a container with --privileged"
NO_OTHER_BOOT = "needs root: another boot's id is mounted"
NO_RIGHTS = "needs root: what gitstate may not read or write is changed or compared"
NO_MOUNT = "mounting is not permitted: run as root, in a container with --privileged"


def not_installed(program: str) -> str:
    return f"{program} not installed: {INSTALL[program]}"


def why_not_program(program: str, path: str | None = None) -> str | None:
    """None where the program is found, else the reason to skip."""
    return None if shutil.which(program, path=path) else not_installed(program)


def why_not_module(name: str) -> str | None:
    """None where a Python module is found, else the reason to skip."""
    return None if importlib.util.find_spec(name) is not None else not_installed(name)


def why_not_root() -> str | None:
    """None where the tests run as root, else the reason to skip."""
    return None if os.geteuid() == 0 else NOT_ROOT
