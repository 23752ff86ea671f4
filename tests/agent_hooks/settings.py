"""Settings of agents as their users write them: JSON, JSON with comments, TOML."""

from __future__ import annotations

AGENTS = ("claude", "codex", "gemini", "kimi")


FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/hooks.json",
    "gemini": ".gemini/settings.json",
    "kimi": ".kimi-code/config.toml",
}


JSON = {
    "empty": "",
    "an object": "{}",
    "an object with room": "{\n}\n",
    "four spaces": '{\n    "model": "opus",\n    "env": {"A": "1", "B": [1, 2,3]}\n}\n',
    "tabs and no last newline": '{\n\t"permissions": {\n\t\t"allow": ["Bash(ls:*)"]\n\t}\n}',
    "one line": '{"model":"opus","hooks":{}}',
    "other hooks": '{\n  "hooks": {\n    "Stop": [\n      {"hooks": [{"type": "command", "command": "say"}]}\n    ],\n'
    '    "SessionStart": []\n  },\n  "model": "opus"\n}\n',
    "non-ascii": '{\n  "note": "caf\u00e9 \u65e5\u672c",\n  "hooks": {"Notification": [{"hooks": []}]}\n}\n',
}


COMMENTED = (
    '{\n  // what I like\n  "theme": "dark", /* really */\n  "hooks": {\n    // mine\n'
    '    "AfterTool": [ {"hooks": [{"type": "command", "command": "x"},]}, ],\n  },\n}\n'
)


TOML = {
    "empty": "",
    "no last newline": 'model = "k2"',
    "a table at the end": 'model = "k2"\n\n[loop_control]\nmax = 3 # mine\n',
    "other hooks": '[[hooks]]\nevent = "Stop"\ncommand = "say \\"[[hooks]]\\""\n\n[theme]\nname = "x"\n',
    "a text that looks like a table": 'text = """\n[[hooks]]\nevent = "Stop"\n"""\n',
}
