"""opencode, which loads plugins into its own process: ours calls gitstate as other agents' hooks do.

All its sessions are rows of one database, which also holds credentials. The copy of one session is a file of lines, one
for the session and one for each message with its parts, in the form of `opencode export`; the last line with an id
counts. `opencode import` brings it back under its own id.
"""

from __future__ import annotations

import os

from ...system import files
from ...system.stdlib import TYPE_CHECKING
from ..base import Agent, Briefing, Database, Home, HookEvent, HookSettings, Sessions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

_CONFIG = Home(".config/opencode", "OPENCODE_CONFIG_DIR")
_DATA = Home(".local/share/opencode", "XDG_DATA_HOME", "opencode")
#: No copy is larger, in bytes, and no message in it.
_MOST_BYTES = 256 << 20
_MOST_MESSAGE = 32 << 20
#: Steps of SQLite's machine: some seconds.
_MOST_STEPS = 200_000_000
_STEPS_AT_ONCE = 1_000_000

#: The plugin. `@COMMAND@` is a line for sh, as a JSON string.
PLUGIN = """\
// Written by `gitstate install --agent opencode`; `gitstate uninstall --agent opencode` removes it.
import { spawn } from "node:child_process"
const COMMAND = @COMMAND@
const send = (directory, value) =>
  new Promise((done) => {
    const child = spawn("/bin/sh", ["-c", COMMAND], { cwd: directory, stdio: ["pipe", "pipe", "ignore"] })
    let said = ""
    const end = () => done(said.trim())
    const timer = setTimeout(() => (child.kill(), end()), 30000)
    child.stdout.on("data", (data) => (said += data))
    child.on("close", () => (clearTimeout(timer), end()))
    child.on("error", end)
    child.stdin.on("error", () => {})
    child.stdin.end(JSON.stringify({ cwd: directory, ...value }))
  })
export const Gitstate = async ({ directory }) => {
  const briefings = new Map()
  const subsessions = new Set()
  const tell = (name, id) => (subsessions.has(id) ? "" : send(directory, { hook_event_name: name, session_id: id }))
  return {
    "chat.message": async ({ sessionID }, output) => {
      const told = [briefings.get(sessionID), await tell("chat.message", sessionID)].filter(Boolean).join("\\n")
      briefings.delete(sessionID)
      const part = told && output?.parts?.find((one) => one.type === "text")
      if (part) part.text += "\\n\\n" + told
    },
    "tool.execute.before": async ({ sessionID }, output) => {
      const told = { hook_event_name: "tool.execute.before", session_id: sessionID, tool_input: output?.args }
      if (typeof output?.args?.command === "string") await send(directory, told)
    },
    "tool.execute.after": async ({ sessionID }) => {
      await tell("tool.execute.after", sessionID)
    },
    "experimental.session.compacting": async ({ sessionID }) => {
      await tell("session.compacting", sessionID)
    },
    event: async ({ event }) => {
      const info = event.properties?.info
      const id = event.properties?.sessionID ?? info?.id
      if (event.type === "session.created" && info?.parentID) subsessions.add(id)
      if (event.type === "session.created") briefings.set(id, await tell("session.created", id))
      if (event.type === "session.idle") await tell("session.idle", id)
      if (event.type === "session.error") await tell("session.error", id)
      if (event.type === "session.deleted") await tell("session.deleted", id)
    },
  }
}
"""


def _open(root: str) -> sqlite3.Connection:
    """The database, for reading, while opencode may write it. Raises OSError, ValueError."""
    import sqlite3

    path = os.path.join(root, "opencode.db")
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    steps = iter(range(_MOST_STEPS // _STEPS_AT_ONCE))
    try:
        database = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=0.5)
    except sqlite3.Error as error:
        raise ValueError(str(error)) from None
    database.row_factory = sqlite3.Row
    database.set_progress_handler(lambda: int(next(steps, None) is None), _STEPS_AT_ONCE)
    return database


def _holds(root: str, session: str, directory: str | None) -> bool:
    import sqlite3

    try:
        database = _open(root)
    except (OSError, ValueError):
        return False
    try:
        row = database.execute("SELECT * FROM session WHERE id = ?", (session,)).fetchone()
        return row is not None and (directory is None or _is_same(dict(row).get("directory"), directory))
    except sqlite3.Error:
        return False
    finally:
        database.close()


def _is_same(path: object, other: str) -> bool:
    """Whether both are one directory; what is no path tells nothing."""
    return not isinstance(path, str) or "\0" in path or os.path.realpath(path) == os.path.realpath(other)


def _export(root: str, session: str, copy: str) -> None:
    import sqlite3

    database = _open(root)
    try:
        # One transaction: all of it as it was at one moment.
        database.execute("BEGIN")
        row = database.execute("SELECT * FROM session WHERE id = ?", (session,)).fetchone()
        if row is not None:
            _append(copy, _new_lines(database, dict(row), _read_copy(copy)))
    except (sqlite3.Error, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None
    finally:
        database.close()


def _append(copy: str, lines: Iterator[bytes]) -> None:
    os.makedirs(os.path.dirname(copy), 0o700, exist_ok=True)
    fd = os.open(copy, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "ab") as file:
        for line in lines:
            if file.tell() + len(line) > _MOST_BYTES:
                break
            file.write(line)


def _read_copy(copy: str) -> dict[str, str]:
    """The version of each id that a copy has; one that a power cut has torn is begun anew."""
    try:
        data = files.read_limited(os.fsencode(copy), _MOST_BYTES)
    except OSError:
        data = None
    if data is not None and (b"\0" in data or not data.endswith(b"\n")):
        os.unlink(copy)
        data = None
    return {name: version for name, version, _ in _lines(data or b"")}


def _lines(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Of each line its id, its version, and the JSON of the rest."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        head, version, rest = [*data[start:end].split(b'","', 2), b"", b""][:3]
        start = end + 1
        if head.startswith(b'{"id":"') and version.startswith(b'version":"'):
            yield head[7:].decode("ascii", "replace"), version[10:].decode("ascii", "replace"), b'{"' + rest


def _line(name: str, version: str, value: dict[str, Any]) -> bytes:
    import json

    # A surrogate alone is no UTF-8: it stays an escape.
    return json.dumps({"id": name, "version": version, **value}, separators=(",", ":")).encode("ascii") + b"\n"


def _new_lines(database: sqlite3.Connection, session: dict[str, Any], known: dict[str, str]) -> Iterator[bytes]:
    name = session["id"]
    version = str(session["time_updated"])
    if known.get(name) != version:
        yield _line(name, version, {"session": _info(session)})
    there = {name}
    newest = "SELECT max(time_updated) FROM part WHERE message_id = m.id"
    number = "SELECT count(*) FROM part WHERE message_id = m.id"
    messages = f"SELECT id, time_updated, ({newest}) AS newest, ({number}) AS number FROM message AS m"
    for row in database.execute(f"{messages} WHERE session_id = ? ORDER BY time_created, id", (name,)).fetchall():
        there.add(row["id"])
        version = f"{row['time_updated']}.{row['newest']}.{row['number']}"
        if known.get(row["id"]) != version and (message := _message(database, row["id"], name)) is not None:
            yield _line(row["id"], version, message)
    for gone in known.keys() - there:
        if known[gone] != "gone":
            yield _line(gone, "gone", {"gone": True})


def _message(database: sqlite3.Connection, name: str, session: str) -> dict[str, Any] | None:
    """A message as `opencode export` has it; None where it is too large."""
    import json

    (data,) = database.execute("SELECT data FROM message WHERE id = ?", (name,)).fetchone()
    parts = database.execute("SELECT id, data FROM part WHERE message_id = ? ORDER BY id", (name,)).fetchall()
    if len(data) + sum(len(part["data"]) for part in parts) > _MOST_MESSAGE:
        return None
    own = {"id": name, "sessionID": session}
    below = {"messageID": name, "sessionID": session}
    return {
        "info": {**json.loads(data), **own},
        "parts": [{**json.loads(part["data"]), **below, "id": part["id"]} for part in parts],
    }


def _info(row: dict[str, Any]) -> dict[str, Any]:
    """A session as `opencode export` has it, without the secret of one that is shared."""
    import json

    texts = {
        "id": "id",
        "slug": "slug",
        "projectID": "project_id",
        "parentID": "parent_id",
        "directory": "directory",
        "path": "path",
        "title": "title",
        "agent": "agent",
        "version": "version",
    }
    info = {key: row[column] for key, column in texts.items() if row.get(column) is not None}
    for key in ("model", "permission", "revert", "metadata"):
        if row.get(key) is not None:
            info[key] = json.loads(row[key])
    numbers = ("additions", "deletions", "files")
    if row.get("summary_files") is not None:
        info["summary"] = {key: row[f"summary_{key}"] or 0 for key in numbers}
    info["cost"] = row.get("cost") or 0
    tokens = {key: row.get(f"tokens_{key}") or 0 for key in ("input", "output", "reasoning")}
    info["tokens"] = {**tokens, "cache": {key: row.get(f"tokens_cache_{key}") or 0 for key in ("read", "write")}}
    times = {"created": "time_created", "updated": "time_updated", "archived": "time_archived"}
    info["time"] = {key: row[column] for key, column in times.items() if row.get(column) is not None}
    return info


def _pack(data: bytes) -> bytes | None:
    """The text that `opencode import` reads."""
    import json

    # The order in which they came first is that of the conversation.
    newest: dict[str, bytes] = {}
    for name, version, rest in _lines(data):
        try:
            whole = isinstance(json.loads(rest), dict)
        except (ValueError, RecursionError):
            whole = False
        if whole:
            newest[name] = b"" if version == "gone" else rest
    before = b'{"session":'
    session = next((text[len(before) : -1] for text in newest.values() if text.startswith(before)), None)
    messages = [text for text in newest.values() if text.startswith(b'{"info":')]
    return None if session is None else b'{"info":' + session + b',"messages":[' + b",".join(messages) + b"]}\n"


AGENT = Agent(
    name="opencode",
    commands=("opencode",),
    events=(
        HookEvent("session.created", "session_start", timeout=30),
        HookEvent("chat.message", "prompt", timeout=30),
        HookEvent("tool.execute.before", "before_tool", timeout=30, deadline=3.0),
        HookEvent("tool.execute.after", "tool", timeout=30),
        HookEvent("session.compacting", "compaction", timeout=30),
        HookEvent("session.idle", "turn_end", timeout=30),
        HookEvent("session.error", "turn_failed", timeout=30),
        HookEvent("session.deleted", "session_end", timeout=30),
    ),
    settings=HookSettings(
        _CONFIG, "plugins/gitstate.js", format="file", project_file=".opencode/plugins/gitstate.js", text=PLUGIN
    ),
    briefing=Briefing("chat.message", once=True),
    sessions=Sessions(
        resume=("opencode", "{options}", "-s", "{id}"),
        resume_with_prompt=("opencode", "run", "{options}", "-s", "{id}", "{prompt}"),
        start_with_prompt=("opencode", "run", "{options}", "{prompt}"),
        transcripts=(),
        database=Database(
            _DATA,
            "gitstate/{id}.jsonl",
            "gitstate/{id}.json",
            ("opencode", "import", "{file}"),
            holds=_holds,
            export=_export,
            pack=_pack,
        ),
        flags=("--auto", "--thinking"),
        valued=("-m", "--model", "--agent", "--variant"),
        headless=("run",),
        names_directory=True,
    ),
    # `opencode run` ends without an event.
    ends_sessions=False,
)
