#!/usr/bin/env bash
# Kimi Code on one task after another, recovered and resumed whatever ended the last run. `kimi-loop.sh --help`.
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
  : # kimi names its sessions itself; its hooks tell gitstate
}

agent_loop kimi "$@"
