"""A conversation in the agent's database: a copy of it is kept, and comes back in what the agent's import reads."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gitstate.agents.registry import agent_named
from gitstate.agents.sessions import load_command, resume_command
from gitstate.format.context import Context
from tests.support.workspace import Workspace

SESSION = "ses_0a1b2c3dffeXYZ"
SECRET = "sk-of-the-account"

#: The columns that opencode 1.18 has, and one that a later version may add.
TABLES = """
CREATE TABLE session (id text PRIMARY KEY, project_id text, parent_id text, slug text, directory text, path text,
  title text, version text, share_url text, summary_additions integer, summary_deletions integer, summary_files integer,
  metadata text, cost real, tokens_input integer, tokens_output integer, tokens_reasoning integer,
  tokens_cache_read integer, tokens_cache_write integer, revert text, permission text, agent text, model text,
  time_created integer, time_updated integer, time_archived integer, later text);
CREATE TABLE message (id text PRIMARY KEY, session_id text, time_created integer, time_updated integer, data text);
CREATE TABLE part (id text PRIMARY KEY, message_id text, session_id text, time_created integer, time_updated integer,
  data text);
CREATE TABLE account (id text PRIMARY KEY, access_token text);
"""


class Database:
    """A database as opencode writes it."""

    def __init__(self, ws: Workspace, home: Path) -> None:
        self.ws = ws
        self.root = home / ".local" / "share" / "opencode"
        self.root.mkdir(parents=True)
        self.now = 1_000
        self.made = self.connect()
        self.made.execute("PRAGMA journal_mode = wal")
        self.made.executescript(TABLES)
        self.made.execute("INSERT INTO account VALUES ('a', ?)", (SECRET,))
        self.add_session(SESSION, "the prices")

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.root / "opencode.db", isolation_level=None)

    def add_session(self, name: str, title: str) -> None:
        values = {"id": name, "project_id": "p", "slug": "s", "directory": str(self.ws.path), "title": title}
        numbers = {"time_created": 1, "time_updated": self.now, "tokens_input": 7, "cost": 0.5}
        self._insert("session", {**values, **numbers, "version": "1.18.33", "model": '{"id":"m"}'})

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        self.now += 1
        marks = ", ".join("?" * len(values))
        self.made.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))

    def say(self, name: str, *texts: str, session: str = SESSION) -> None:
        times = {"time_created": self.now, "time_updated": self.now}
        data = json.dumps({"role": "user", "time": {"created": self.now}})
        self._insert("message", {"id": name, "session_id": session, **times, "data": data})
        for number, text in enumerate(texts):
            part = {"id": f"{name}-{number}", "message_id": name, "session_id": session, **times}
            self._insert("part", {**part, "data": json.dumps({"type": "text", "text": text})})

    def change(self, part: str, text: str) -> None:
        self.now += 1
        data = json.dumps({"type": "text", "text": text})
        self.made.execute("UPDATE part SET data = ?, time_updated = ? WHERE id = ?", (data, self.now, part))

    def begin(self) -> None:
        done = self.ws.gitstate("begin", "task_id=T-1", f"session_id={SESSION}", "agent=opencode")
        assert done.exit_status == 0, done

    @property
    def copy(self) -> Path:
        return self.root / "gitstate" / f"{SESSION}.jsonl"

    @property
    def import_file(self) -> Path:
        return self.root / "gitstate" / f"{SESSION}.json"

    def lose(self) -> None:
        self.made.close()
        for path in [*self.root.glob("opencode.db*"), *self.root.glob("gitstate/*")]:
            path.unlink()

    def recovered(self) -> dict[str, Any]:
        done = self.ws.gitstate("recover")
        assert done.exit_status == 0, done
        value: dict[str, Any] = json.loads(self.import_file.read_text())
        return value


def texts_of(value: dict[str, Any]) -> list[list[str]]:
    return [[part["text"] for part in message["parts"]] for message in value["messages"]]


@pytest.fixture
def database(ws: Workspace, hermetic: Path) -> Database:
    made = Database(ws, hermetic)
    made.say("msg_1", "Please round\nthe \"prices\", 'all' of them.", "\u2028 \x1b[31m")
    made.begin()
    return made


def test_session_comes_back_for_the_import(database: Database) -> None:
    database.say("msg_2", "Done.")
    assert database.ws.gitstate("save").exit_status == 0
    database.lose()
    value = database.recovered()
    info = value["info"]
    assert (info["id"], info["title"], info["directory"]) == (SESSION, "the prices", str(database.ws.path))
    assert (info["cost"], info["tokens"]["input"], info["model"]) == (0.5, 7, {"id": "m"})
    assert texts_of(value) == [["Please round\nthe \"prices\", 'all' of them.", "\u2028 \x1b[31m"], ["Done."]]
    message = value["messages"][1]
    assert message["info"] == {"role": "user", "time": {"created": 1_004}, "id": "msg_2", "sessionID": SESSION}
    own = {"id": "msg_2-0", "messageID": "msg_2", "sessionID": SESSION}
    assert message["parts"] == [{"type": "text", "text": "Done.", **own}]


def test_command_imports_first_only_where_the_database_lacks_the_session(database: Database) -> None:
    environ = {"HOME": str(database.root.parents[2])}
    context = Context(agent="opencode", session_id=SESSION, workspace_path="/w")
    assert resume_command(context, environ) == f"cd /w && opencode -s {SESSION}"
    assert resume_command(context._replace(session_id="ses_other"), environ) is None
    assert database.ws.gitstate("save").exit_status == 0
    database.lose()
    assert resume_command(context, environ) is None
    database.recovered()
    imported = f"opencode import {database.import_file}"
    assert resume_command(context, environ) == f"cd /w && {imported} && opencode -s {SESSION}"
    assert load_command(context, environ) == imported.split()


def test_session_of_a_workspace_that_was_moved_is_imported_there(database: Database) -> None:
    """The database has it in the directory of before, where nothing is any more."""
    assert database.ws.gitstate("save").exit_status == 0
    moved = database.ws.path.with_name("moved")
    database.ws.path.rename(moved)
    done = database.ws.gitstate("recover", path=moved)
    assert done.exit_status == 0
    assert f"cd {moved} && opencode import {database.import_file} && opencode -s {SESSION}" in str(done)


def test_other_sessions_and_credentials_are_not_kept(database: Database) -> None:
    database.add_session("ses_other", "another")
    database.say("msg_9", "of the other session", session="ses_other")
    assert database.ws.gitstate("save").exit_status == 0
    text = database.copy.read_text()
    assert "msg_1" in text and SECRET not in text and "msg_9" not in text and "ses_other" not in text
    assert database.copy.stat().st_mode & 0o777 == 0o600


def test_copy_only_grows_by_what_is_new(database: Database) -> None:
    database.say("msg_2", "x" * 5000)
    assert database.ws.gitstate("checkpoint").exit_status == 0
    before = database.copy.read_bytes()
    assert database.ws.gitstate("checkpoint").exit_status == 0
    assert database.copy.read_bytes() == before
    database.change("msg_1-0", "Please.")
    assert database.ws.gitstate("checkpoint").exit_status == 0
    after = database.copy.read_bytes()
    assert after.startswith(before) and 0 < len(after) - len(before) < 1000
    database.lose()
    assert texts_of(database.recovered()) == [["Please.", "\u2028 \x1b[31m"], ["x" * 5000]]


def test_message_that_was_taken_back_does_not_return(database: Database) -> None:
    database.say("msg_2", "no")
    assert database.ws.gitstate("checkpoint").exit_status == 0
    database.made.execute("DELETE FROM message WHERE id = 'msg_2'")
    database.made.execute("DELETE FROM part WHERE message_id = 'msg_2'")
    assert database.ws.gitstate("save").exit_status == 0
    database.lose()
    assert len(texts_of(database.recovered())) == 1


@pytest.mark.parametrize("damage", [b"\0" * 40, b'{"id":"msg_1","ver'], ids=["zeros", "cut short"])
def test_torn_copy_begins_anew(database: Database, damage: bytes) -> None:
    assert database.ws.gitstate("save").exit_status == 0
    whole = database.copy.read_bytes()
    database.copy.write_bytes(whole[: len(whole) // 2] + damage)
    database.ws.append("a.txt")
    assert database.ws.gitstate("save").exit_status == 0
    assert database.copy.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"no database" * 500, None], ids=["empty", "garbage", "directory"])
def test_database_that_cannot_be_read_stops_no_save(ws: Workspace, hermetic: Path, content: bytes | None) -> None:
    made = Database(ws, hermetic)
    made.begin()
    made.lose()
    path = made.root / "opencode.db"
    path.mkdir() if content is None else path.write_bytes(content)
    ws.append("a.txt")
    done = ws.gitstate("save")
    assert done.exit_status == 0 and ws.refs("refs/gitstate/pending")
    assert ws.gitstate("recover").exit_status == 0


def test_database_that_is_being_written_is_read(database: Database) -> None:
    writer = database.connect()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE session SET title = 'half'")
    assert database.ws.gitstate("save").exit_status == 0
    writer.execute("ROLLBACK")
    writer.close()
    database.lose()
    assert database.recovered()["info"]["title"] == "the prices"


def test_data_directory_of_the_environment() -> None:
    agent = agent_named("opencode")
    assert agent is not None and agent.sessions.database is not None
    home = agent.sessions.database.home
    assert home.path({"HOME": "/h", "XDG_DATA_HOME": "/d"}) == "/d/opencode"
    assert home.path({"HOME": "/h"}) == "/h/.local/share/opencode"


def test_link_in_place_of_the_copy_is_not_followed(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine\n")
    database.copy.parent.mkdir()
    database.copy.symlink_to(target)
    assert database.ws.gitstate("save").exit_status == 0
    assert target.read_text() == "mine\n"
