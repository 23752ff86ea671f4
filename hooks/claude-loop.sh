#!/usr/bin/env bash
# Runs Claude Code on one task after another, and resumes it after any end of the last run. See `claude-loop.sh --help`.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}" 2>/dev/null) || self=${BASH_SOURCE[0]}
# shellcheck source=gitstate.bash
. "${self%/*}/gitstate.bash"
# shellcheck source=agent-loop.bash
. "${self%/*}/agent-loop.bash"

start_agent() {
  gitstate_run claude -p "$prompt" ${1:+--session-id "$1"} ${agent_options[@]+"${agent_options[@]}"}
}

resume_agent() {
  gitstate_run claude -p --resume "$1" "$prompt" ${agent_options[@]+"${agent_options[@]}"}
}

new_session() {
  cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen || :
}

agent_loop claude "$@"
