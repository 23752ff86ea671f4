"""The real agents: how each is set up for a made-up model, in a home of its own and without an account."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: Where the programs are looked for, besides the PATH.
PATH = os.pathsep.join(filter(None, (os.environ.get("GITSTATE_AGENTS"), os.environ.get("PATH"))))


class Program(NamedTuple):
    """One agent."""

    command: tuple[str, ...]
    """The command line; the prompt follows."""
    set_up: Callable[[Path, str], dict[str, str]]
    """From its home and the URL of the model: its environment; writes its settings."""


def environment(program: Program, home: Path, url: str) -> dict[str, str]:
    """All that an agent needs, and nothing of the machine's own settings."""
    found = shutil.which(program.command[0], path=PATH)
    assert found is not None
    places = [os.path.dirname(found), os.path.dirname(sys.executable), *PATH.split(os.pathsep)]
    names = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "XDG_STATE_HOME", "LANG")
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {"PATH": os.pathsep.join(dict.fromkeys(places)), "HOME": str(home), "TERM": "xterm", "SHELL": "/bin/sh"}
    return env | program.set_up(home, url)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _claude(home: Path, url: str) -> dict[str, str]:
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "IS_SANDBOX": "1"}
    return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-ant-made-up", **quiet}


def _codex(home: Path, url: str) -> dict[str, str]:
    provider = f'name = "made-up"\nbase_url = "{url}/v1"\nenv_key = "MADE_UP"\nwire_api = "responses"\n'
    manner = 'approval_policy = "never"\nsandbox_mode = "danger-full-access"\n'
    head = 'model = "gpt-5"\nmodel_provider = "made-up"\n'
    _write(home / ".codex" / "config.toml", f"{head}{manner}[model_providers.made-up]\n{provider}")
    return {"MADE_UP": "made-up"}


def _gemini(home: Path, url: str) -> dict[str, str]:
    auth = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
    _write(home / ".gemini" / "settings.json", json.dumps(auth))
    return {"GEMINI_API_KEY": "made-up", "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_TELEMETRY_ENABLED": "false"}


def _kimi(home: Path, url: str) -> dict[str, str]:
    provider = f'[providers.made-up]\ntype = "openai"\nbase_url = "{url}/v1"\napi_key = "made-up"\n'
    model = '[models.made-up]\nprovider = "made-up"\nmodel = "made-up"\nmax_context_size = 200000\n'
    _write(home / ".kimi-code" / "config.toml", f'default_model = "made-up"\n{provider}{model}')
    return {}


def _qwen(home: Path, url: str) -> dict[str, str]:
    return {"OPENAI_API_KEY": "made-up", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "made-up"}


def _opencode(home: Path, url: str) -> dict[str, str]:
    options = {"baseURL": f"{url}/v1", "apiKey": "made-up"}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"made-up": {"name": "made-up"}}}
    value = {"model": "made-up/made-up", "provider": {"made-up": provider}}
    _write(home / ".config" / "opencode" / "opencode.json", json.dumps(value))
    return {}


def _copilot(home: Path, url: str) -> dict[str, str]:
    provider = {"BASE_URL": f"{url}/v1", "TYPE": "openai", "API_KEY": "made-up"}
    env = {f"COPILOT_PROVIDER_{name}": text for name, text in provider.items()}
    return {**env, "COPILOT_MODEL": "made-up", "COPILOT_OFFLINE": "true"}


PROGRAMS = {
    "claude": Program(("claude", "--dangerously-skip-permissions", "-p"), _claude),
    "codex": Program(("codex", "exec", "--dangerously-bypass-hook-trust"), _codex),
    "copilot": Program(("copilot", "--allow-all", "-p"), _copilot),
    "gemini": Program(("gemini", "--skip-trust", "--yolo", "-p"), _gemini),
    "kimi": Program(("kimi", "-p"), _kimi),
    "opencode": Program(("opencode", "run"), _opencode),
    "qwen": Program(("qwen", "--yolo", "-p"), _qwen),
}
