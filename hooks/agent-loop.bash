# shellcheck shell=bash
# What claude-loop.sh and kimi-loop.sh share: recover, take a task, run the agent, remove the task, again.
#
# Such a script defines three functions and calls `agent_loop NAME "$@"`. They find the prompt in $prompt, and in
# agent_options what stood behind `--`:
#     start_agent SESSION     runs the agent by gitstate_run, in a new session of this name
#     resume_agent SESSION    the same in an old one
#     new_session             prints a name for a new session, or nothing where the agent makes its own

agent_usage() {
  cat <<EOF
usage: $loop [OPTION]… [-- ARGUMENT OF $agent…]

Runs $agent on one task after another. What an earlier run left is recovered first, and its task continued.

  --workspace DIR     where to work (default: here)
  --tasks FILE        the tasks, one on a line; a task is removed only when it is finished
  --next COMMAND      a shell command that prints the next task, or nothing
  --prompt TEMPLATE   what the agent is told; {} stands for the task (default: {})
  --max N             stop after N runs of the agent
  --once              the same as --max 1
  --min-seconds N     a run that is shorter and changes nothing has not worked (default: 5); after three, stop
  --stop-file FILE    stop before the next run where this file exists
  --log-dir DIR       also write what the agent prints into a file there, one for each run
  --help              print this

Exit status: 0 no task is left, or asked to stop; 2 usage; 4 a person must decide; 75 $agent does nothing, or
something else is at work here; otherwise the agent's own, 128+n for signal n.
EOF
}

# agent_loop AGENT [OPTION]…: all of it.
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

# shellcheck disable=SC2034  # agent_options is for the agent's own functions
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
      --*) [ $# -gt 0 ] || usage_error "$option wants a value"; value=$1; shift ;;
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
    '') usage_error 'where do the tasks come from? --tasks FILE or --next COMMAND' ;;
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
  case $2 in '' | *[!0-9]*) usage_error "$1 wants a number, not $2" ;; esac
}

# Put back what an earlier run left; its task comes before any other.
recover_first() {
  local status=0
  recover_agent_state || status=$?
  case $status:$RECOVERED_VERDICT in
    0:*)
      task=$RECOVERED_TASK_ID told=$RECOVERED_BRIEFING
      [ -z "$task" ] || say "going on with what an earlier run left: $task"
      # Only where the session is still there, and from the directory in which it began.
      if [ "$RECOVERED_AGENT" = "$agent" ] && [ -n "$RECOVERED_RESUME_COMMAND" ] &&
        [ "${RECOVERED_AGENT_CWD:-.}" -ef . ]; then
        session=$RECOVERED_SESSION_ID
      fi
      ;;
    1:nothing) ;;
    4:*) say 'a person must decide first (see above); no agent was started'; exit 4 ;;
    *) say 'the workspace could not be recovered (see above); no agent was started'; exit "$status" ;;
  esac
}

# The next task, from the top of the file or from the command.
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

# Take the finished task out of the file: the whole new file, then its name. Whoever adds a line meanwhile keeps it.
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

# One run of the agent. Ends the loop where the agent failed: its work is saved, and the task stays first.
run_once() {
  local status=0 before began=$SECONDS resumed=$session
  prompt=$template$'\n\n'$task
  case $template in *'{}'*) prompt=${template%%'{}'*}$task${template#*'{}'} ;; esac
  case $prompt in -*) prompt=" $prompt" ;; esac # a prompt, never an option
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
    say "$agent did nothing in its earlier session $resumed (status $status); a new one is begun"
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

# Run the agent; what it prints stays where it was, and goes into the log too. The copying ends when its input does.
logged() {
  local log
  if [ -z "$log_dir" ]; then
    "$1" "$2"
    return
  fi
  log=$log_dir/$(date -u +%Y%m%dT%H%M%SZ)-$$-$runs.log
  "$1" "$2" > >(trap '' HUP INT QUIT TERM; exec tee -a -- "$log") 2> >(trap '' HUP INT QUIT TERM; exec tee -a -- "$log" >&2)
}

# The commit, and what git lists as changed.
workspace_state() {
  {
    git rev-parse -q --verify HEAD || :
    GIT_OPTIONAL_LOCKS=0 git -C "$top" status --porcelain=v2 --untracked-files=all
  } | cksum
}

# Whether the agent has done anything since `before` and `stamp`: to the lists, or to a file in them.
did_something() {
  local path
  [ "$(workspace_state)" = "$before" ] || return 0
  while IFS= read -r -d '' path; do
    [ ! "$top/$path" -nt "$stamp" ] || return 0
  done < <(git -C "$top" ls-files -z --modified --others --exclude-standard)
  return 1
}
