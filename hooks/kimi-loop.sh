#!/usr/bin/env bash
# Runs Kimi Code on one task after another, and resumes it after any end of the last run. See `kimi-loop.sh --help`.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}" 2>/dev/null) || self=${BASH_SOURCE[0]}
# shellcheck source=gitstate.bash
. "${self%/*}/gitstate.bash"
# shellcheck source=agent-loop.bash
. "${self%/*}/agent-loop.bash"

start_agent() {
  gitstate_run kimi -p "$prompt" ${agent_options[@]+"${agent_options[@]}"}
}

resume_agent() {
  gitstate_run kimi -S "$1" -p "$prompt" ${agent_options[@]+"${agent_options[@]}"}
}

new_session() {
  : # kimi chooses its own ids; its hooks record them
}

agent_loop kimi "$@"
