"""opencode, which loads plugins into its own process: ours calls gitstate as other agents' hooks do."""

from __future__ import annotations

from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, Transcript

_CONFIG = Home(".config/opencode", "OPENCODE_CONFIG_DIR")
_DATA = Home(".local/share/opencode")

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

AGENT = Agent(
    name="opencode",
    commands=("opencode",),
    events=(
        HookEvent("session.created", "session_start", timeout=30),
        HookEvent("chat.message", "prompt", timeout=30),
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
        # A database holds all sessions: that it is there is all that can be told without opening it.
        transcripts=(Transcript(_DATA, "opencode.db"), Transcript(_DATA, "storage/session/*/{id}.json")),
        flags=("--auto", "--thinking"),
        valued=("-m", "--model", "--agent", "--variant"),
        headless=("run",),
    ),
    # `opencode run` ends without an event.
    ends_sessions=False,
)
