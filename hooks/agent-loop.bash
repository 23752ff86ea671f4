# shellcheck shell=bash
# The loop of claude-loop.sh and kimi-loop.sh: recover, take a task, run the agent, remove the task, begin again.
#
# Such a script defines three functions and calls `agent_loop NAME "$@"`. The functions read the prompt from $prompt and
# the arguments behind `--` from agent_options:
#     start_agent SESSION     runs the agent with gitstate_run, in a new session with this id
#     resume_agent SESSION    runs the agent with gitstate_run, in an existing session
#     new_session             prints an id for a new session, or nothing if the agent chooses its own

agent_usage() {
  cat <<EOF
usage: $loop [OPTION]… [-- ARGUMENT OF $agent…]

Runs $agent on one task after another. A pending save of an earlier run is recovered first, and its task continued.

  --workspace DIR     where to work (default: here)
  --tasks FILE        the tasks, one on a line; a task is removed only when it is done
  --next COMMAND      a shell command that prints the next task, or nothing
  --prompt TEMPLATE   the prompt of the agent; {} stands for the task (default: {})
  --max N             stop after N runs of the agent
  --once              the same as --max 1
  --min-seconds N     stop after three runs that are shorter than this and change nothing (default: 5)
  --stop-file FILE    stop before the next run where this file exists
  --log-dir DIR       also write the output of the agent into a file in DIR, one for each run
  --help              print this

Exit status: 0 no task is left, or the stop file exists; 2 usage; 4 manual intervention required; 75 $agent does
nothing, or another process works in the workspace; otherwise the agent's own, 128+n for signal n.
EOF
}

# agent_loop AGENT [OPTION]…: run the loop. Does not return.
agent_loop() {
  agent=$1 loop=${0##*/} workspace=. tasks='' next='' template='{}' most=0 brake=5 stop_file='' log_dir=''
  shift
  parse_options "$@"
  cd -- "$workspace" || exit 2
  command -v "$agent" >/dev/null || { say "there is no command $agent on the PATH"; exit 127; }

  top=$(git rev-parse --show-toplevel) || exit 2
  stamp=$(git rev-parse --absolute-git-dir)/gitstate-loop # its time is when the last run began

  task='' session='' told=''
  recover_first
  runs=0 idle=0
  while :; do
    if [ -n "$stop_file" ] && [ -e "$stop_file" ]; then say "stopped: $stop_file exists"; exit 0; fi
    if [ "$most" -gt 0 ] && [ "$runs" -ge "$most" ]; then exit 0; fi
    [ -n "$task" ] || take_task
    [ -n "$task" ] || { say 'no task is left'; exit 0; }
    runs=$((runs + 1))
    run_once
  done
}

# shellcheck disable=SC2034  # the functions of the script read agent_options
parse_options() {
  local option value
  agent_options=()
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
      -h | --help) agent_usage; exit 0 ;;
      --) agent_options=("$@"); break ;;
      --once) most=1; continue ;;
      --*=*) value=${option#*=} option=${option%%=*} ;;
      --*) [ $# -gt 0 ] || usage_error "$option needs a value"; value=$1; shift ;;
      *) usage_error "$option is no option" ;;
    esac
    case $option in
      --workspace) workspace=$value ;;
      --tasks) tasks=$(absolute "$value") ;;
      --next) next=$value ;;
      --prompt) template=$value ;;
      --max) number "$option" "$value"; most=$value ;;
      --min-seconds) number "$option" "$value"; brake=$value ;;
      --stop-file) stop_file=$(absolute "$value") ;;
      --log-dir) log_dir=$(absolute "$value") ;;
      *) usage_error "$option is no option" ;;
    esac
  done
  case ${tasks:+t}${next:+n} in
    tn) usage_error '--tasks and --next exclude each other' ;;
    '') usage_error 'no tasks: give --tasks FILE or --next COMMAND' ;;
  esac
  [ -z "$tasks" ] || [ -r "$tasks" ] || usage_error "$tasks can't be read"
  [ -z "$log_dir" ] || mkdir -p -- "$log_dir"
}

say() {
  printf '%s: %s\n' "$loop" "$*" >&2
}

usage_error() {
  say "$1"
  say "next: $loop --help"
  exit 2
}

absolute() {
  case $1 in /*) printf %s "$1" ;; *) printf %s "$PWD/$1" ;; esac
}

number() {
  case $2 in '' | *[!0-9]*) usage_error "$1 needs a number, not $2" ;; esac
}

# Recover the pending save of an earlier run; its task comes first.
recover_first() {
  local status=0
  recover_agent_state || status=$?
  case $status:$RECOVERED_VERDICT in
    0:*)
      task=$RECOVERED_TASK_ID told=$RECOVERED_BRIEFING
      [ -z "$task" ] || say "continuing the task of an earlier run: $task"
      # An agent finds a session only from the directory in which it began.
      if [ "$RECOVERED_AGENT" = "$agent" ] && [ -n "$RECOVERED_RESUME_COMMAND" ] &&
        [ "${RECOVERED_AGENT_CWD:-.}" -ef . ]; then
        session=$RECOVERED_SESSION_ID
      fi
      ;;
    1:nothing) ;;
    4:*) say 'manual intervention required (see above); no agent was started'; exit 4 ;;
    *) say 'the workspace could not be recovered (see above); no agent was started'; exit "$status" ;;
  esac
}

# Set `task` to the next task: the first line of the file, or the output of the command.
take_task() {
  local line
  if [ -n "$next" ]; then
    task=$(bash -c "$next") || { say "this command failed: $next"; exit 1; }
    return
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in *[![:space:]]*) task=$line; return ;; esac
  done <"$tasks"
}

# Remove the task from the file: write the whole new file, then rename it. A line that was added meanwhile is kept.
remove_task() {
  local line removed seen
  [ -n "$tasks" ] || return 0
  seen=$(mktemp "$tasks.XXXXXX")
  while :; do
    cp -p -- "$tasks" "$seen"
    removed=''
    while IFS= read -r line || [ -n "$line" ]; do
      if [ -z "$removed" ] && [ "$line" = "$task" ]; then removed=1; continue; fi
      printf '%s\n' "$line"
    done <"$seen" >"$seen.new"
    if cmp -s -- "$tasks" "$seen"; then
      cat -- "$seen.new" >"$seen" # which has the file's mode
      sync "$seen" 2>/dev/null || sync
      mv -f -- "$seen" "$tasks"
      break
    fi
  done
  rm -f -- "$seen.new"
}

# Run the agent once. Exits if the agent failed: its work is saved, and the task stays first.
run_once() {
  local status=0 before began=$SECONDS resumed=$session
  prompt=$template$'\n\n'$task
  case $template in *'{}'*) prompt=${template%%'{}'*}$task${template#*'{}'} ;; esac
  case $prompt in -*) prompt=" $prompt" ;; esac # never taken for an option
  [ -z "$told" ] || prompt=$prompt$'\n\n'$told
  [ -n "$session" ] || session=$(new_session)
  before=$(workspace_state)
  : >"$stamp"
  gitstate_begin "task_id=$task" "issue_number=$RECOVERED_ISSUE_NUMBER" "progress_stage=$RECOVERED_PROGRESS_STAGE" \
    "memory_refs=$RECOVERED_MEMORY_REFS" "agent=$agent" "session_id=$session"
  if [ -n "$resumed" ]; then logged resume_agent "$session"; else logged start_agent "$session"; fi || status=$?

  if [ "$((SECONDS - began))" -ge "$brake" ] || did_something; then
    [ "$status" -eq 0 ] || { say "$agent ended with status $status; the task stays first: $task"; exit "$status"; }
    gitstate_finish
    remove_task
    task='' session='' told='' idle=0
    RECOVERED_ISSUE_NUMBER='' RECOVERED_PROGRESS_STAGE='' RECOVERED_MEMORY_REFS=''
    return
  fi
  session=''
  if [ -n "$resumed" ]; then
    say "$agent did nothing in its earlier session $resumed (status $status); starting a new one"
    return
  fi
  [ "$status" -eq 0 ] || { say "$agent ended with status $status; the task stays first: $task"; exit "$status"; }
  idle=$((idle + 1))
  if [ "$idle" -ge 3 ]; then
    say "$agent ended $idle times within $brake seconds and changed nothing; is it the right command?"
    say "the task stays first: $task"
    exit 75
  fi
  sleep "$idle"
}

# Run the agent, and copy its output into the log. The copies end when their input does.
logged() {
  local log
  if [ -z "$log_dir" ]; then
    "$1" "$2"
    return
  fi
  log=$log_dir/$(date -u +%Y%m%dT%H%M%SZ)-$$-$runs.log
  "$1" "$2" > >(trap '' HUP INT QUIT TERM; exec tee -a -- "$log") 2> >(trap '' HUP INT QUIT TERM; exec tee -a -- "$log" >&2)
}

# A checksum of the commit and of what git lists as changed.
workspace_state() {
  {
    git rev-parse -q --verify HEAD || :
    GIT_OPTIONAL_LOCKS=0 git -C "$top" status --porcelain=v2 --untracked-files=all
  } | cksum
}

# Whether the agent has changed the commit, the list of changed files, or one of these files since the run began.
did_something() {
  local path
  [ "$(workspace_state)" = "$before" ] || return 0
  while IFS= read -r -d '' path; do
    [ ! "$top/$path" -nt "$stamp" ] || return 0
  done < <(git -C "$top" ls-files -z --modified --others --exclude-standard)
  return 1
}
