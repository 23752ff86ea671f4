# shellcheck shell=bash
# gitstate for bash, 3.2 and newer, and zsh, 5.8 and newer: whatever ends this shell, its work is saved, and its next run
# continues it.
#
#     eval "$(gitstate init bash)"                # in zsh: init zsh; or: . hooks/gitstate.bash
#     recover_agent_state && echo "going on with $RECOVERED_TASK_ID"
#     gitstate_begin task_id=T-42 issue_number=7
#     gitstate_stage coding
#     gitstate_run claude -p "Fix the rounding"
#     gitstate_finish
#
# hooks/README.md describes each function. All decisions are made by the command `gitstate`; this file only sets traps.
# It prints nothing to stdout, leaves no option of the shell changed, and chains the traps that were set before.

if [ -z "${BASH_VERSION-}${ZSH_VERSION-}" ]; then
  echo 'gitstate: the shell library needs bash or zsh; elsewhere use: gitstate run -- COMMAND' >&2
  return 1
fi
if [ -n "${ZSH_VERSION-}" ] && [ -z "${_gitstate_emulated-}" ]; then
  # Read this file once more: in zsh its functions keep the options under which they are read, whatever the caller sets.
  eval '_gitstate_file=${${(%):-%x}:A}'
  _gitstate_emulated=1
  # shellcheck disable=SC2016  # a line for zsh
  emulate -R ksh -o noaliases -o nolocaltraps -c '. "$_gitstate_file"'
  return
fi
unset _gitstate_emulated

# The command is looked up once: a trap finds it even if PATH changes later.
if [ -n "${ZSH_VERSION-}" ]; then
  zmodload zsh/parameter zsh/system
  # shellcheck disable=SC2154  # zsh sets it
  _gitstate_program=${commands[gitstate]-gitstate}
else
  _gitstate_program=$(type -P gitstate) || _gitstate_program=gitstate
fi

# Sourced again, it keeps these values. Signals are numbers here: 1 HUP, 2 INT, 3 QUIT, 15 TERM, and 0 EXIT.
: "${_gitstate_owner=}"    # the process whose traps are ours: this shell, or a subshell
: "${_gitstate_place=}"    # the directory in which the task began
: "${_gitstate_begun=}"    # not empty: something is under way that an end has to save or finish
: "${_gitstate_holder=}"   # the shell that goes on with it after a subshell has ended; empty: the owner
: "${_gitstate_around=}"   # not empty: this is a subshell, and that is under way in the shell around it too
: "${_gitstate_child=}"    # the supervisor that is waited for; "starting" while its number is not known yet
: "${_gitstate_before=}"   # the last background process before that one
: "${_gitstate_status=0}"  # how it ended
: "${_gitstate_asked=}"    # INT or QUIT, while the supervisor finds out whether it ends the agent
: "${_gitstate_signal=}"   # the signal that ends this shell
: "${_gitstate_due=}"      # the option and the value that tell `gitstate save` which end has come
: "${_gitstate_ended=}"    # not empty: the end has been saved
: "${_gitstate_trap_0=}" "${_gitstate_trap_1=}" "${_gitstate_trap_2=}" "${_gitstate_trap_3=}" "${_gitstate_trap_15=}"
: "${_gitstate_patience=50}" # tenths of a second for which a command that is gone is waited for
_gitstate_newline=$'\n'
_gitstate_pairs=()         # what is just being told to gitstate: a signal to the whole group may cut that short
# The other signals of which bash runs its EXIT trap, with the status of the last command, as at an end of the script.
_gitstate_others=()
[ -n "${ZSH_VERSION-}" ] ||
  eval "_gitstate_others=($(for _gitstate_n in ABRT ALRM PIPE USR1 USR2 VTALRM XCPU XFSZ; do builtin kill -l "$_gitstate_n"; done))"

# --------------------------------------------------------------------------------------------------------------------
# What a loop calls
# --------------------------------------------------------------------------------------------------------------------

# gitstate_begin KEY=VALUE…: begin a new task in this directory.
gitstate_begin() {
  _gitstate_arm
  _gitstate_place=$PWD
  _gitstate_unexport
  _gitstate_said "$@"
  _gitstate_cut_pairs "$@"
  set -- ${_gitstate_pairs[@]+"${_gitstate_pairs[@]}"}
  _gitstate_await_program
  _gitstate_pairs=(issue_number='' progress_stage='' memory_refs='' session_id='' "$@")
  "$_gitstate_program" -C "$(_gitstate_directory)" begin --owner-pid "$_gitstate_owner" -- "$@" >/dev/null || {
    set -- "$?"
    _gitstate_pairs=()
    return "$1"
  }
  _gitstate_pairs=() _gitstate_begun=1 _gitstate_around='' _gitstate_holder=$_gitstate_owner
}

# gitstate_stage NAME: record how far the task is.
gitstate_stage() {
  _gitstate_arm
  _gitstate_unexport
  _gitstate_said "progress_stage=$1"
  _gitstate_cut_pairs "progress_stage=$1"
  set -- "${_gitstate_pairs[0]}"
  _gitstate_await_program
  _gitstate_pairs=()
  "$_gitstate_program" -C "$(_gitstate_directory)" set -- "$1" >/dev/null
}

# gitstate_run COMMAND…: run an agent in the foreground, under a supervisor that saves whatever ends it.
# Returns the agent's own status, 128+n where signal n ended it.
gitstate_run() {
  local _gitstate_monitor=
  _gitstate_arm
  _gitstate_begun=1
  _gitstate_command run --owner-pid "${_gitstate_holder:-$_gitstate_owner}" -- "$@"
  # In the background, because bash runs a trap only between two commands, but `wait` returns at once. In this process
  # group and with this stdin, so that the terminal stays the agent's: job control and `&` would take them away.
  case $- in *m*) _gitstate_monitor=1; set +m ;; esac
  _gitstate_before=${!-}
  _gitstate_child=starting
  if { true <&0; } 2>/dev/null; then
    _gitstate_become_command <&0 &
  else
    _gitstate_become_command &
  fi
  _gitstate_child=$!
  [ -z "$_gitstate_monitor" ] || set -m
  _gitstate_await "$_gitstate_child" || :
  _gitstate_child=
  if [ -n "$_gitstate_asked" ]; then
    # The agent may have taken a Ctrl-C as its own affair, and gone on. Otherwise the shell ends of it too.
    [ "$_gitstate_status" -ne "$((128 + _gitstate_asked))" ] || kill "-$_gitstate_asked" "$_gitstate_owner"
    _gitstate_asked=
  fi
  return "$_gitstate_status"
}

# In the background process of gitstate_run. `&` ignores INT and QUIT there: a Ctrl-C would be lost until the supervisor
# listens.
_gitstate_become_command() {
  [ -z "${_gitstate_armed[2]-}" ] || trap - 2
  [ -z "${_gitstate_armed[3]-}" ] || trap - 3
  # The agent begins where this shell is, as long as that is in a worktree of the repository.
  [ -z "${WORKSPACE_PATH-}" ] || builtin cd -- "$(_gitstate_directory)" >/dev/null 2>&1 || :
  exec "${_gitstate_argv[@]}"
}

# gitstate_finish: mark the task as done. A save that is pending is recovered first.
gitstate_finish() {
  _gitstate_finish
}

_gitstate_finish() {
  _gitstate_command finish "$@"
  "${_gitstate_argv[@]}" >/dev/null || return
  _gitstate_begun=
}

# recover_agent_state: recover the pending save of an earlier run, and set RECOVERED_TASK_ID and the other variables.
# Returns 0 if there was something to recover, 1 if there was nothing. Else recovery failed, and no agent should start: 4,
# manual intervention required; 75, another process works here; 70, `gitstate recover` failed; or its own status. Then
# all variables are empty, RECOVERED_VERDICT included.
# shellcheck disable=SC2034  # the variables are the caller's
recover_agent_state() {
  local _gitstate_lines _gitstate_failure=0
  _gitstate_adopt
  _gitstate_unexport
  RECOVERED_TASK_ID='' RECOVERED_ISSUE_NUMBER='' RECOVERED_WORKSPACE_PATH='' RECOVERED_BRANCH_NAME=''
  RECOVERED_PROGRESS_STAGE='' RECOVERED_MEMORY_REFS='' RECOVERED_AGENT='' RECOVERED_SESSION_ID=''
  RECOVERED_TRANSCRIPT_PATH='' RECOVERED_AGENT_CWD='' RECOVERED_RESUME_COMMAND=''
  RECOVERED_VERDICT='' RECOVERED_SAVE_ID='' RECOVERED_RESUME='' RECOVERED_BRIEFING=''
  _gitstate_await_program
  _gitstate_lines=$("$_gitstate_program" -C "$(_gitstate_directory)" recover --format shell) || _gitstate_failure=$?
  case $_gitstate_failure in
    0) ;;
    1) return 70 ;; # 1 means that there was nothing to recover
    *) return "$_gitstate_failure" ;;
  esac
  eval "$_gitstate_lines" # every value stands in single quotes
  [ "$RECOVERED_VERDICT" != nothing ]
}

# cleanup_and_save [SIGNAL]: save now. Such a save stays pending until it is recovered or gitstate_finish is called. As the whole text of a trap it also ends the shell as the signal would have. As a
# part of a trap it leaves that to the trap, which should end with `exit`: the shell dies of the signal, whatever status
# `exit` names.
cleanup_and_save() {
  local _gitstate_last=$? _gitstate_number='' _gitstate_whole='' _gitstate_from=''
  [ -z "$_gitstate_ended" ] || return 0
  _gitstate_begun=1
  [ -z "$_gitstate_due" ] || { _gitstate_save_due; return; }
  _gitstate_look_for_trap
  [ -z "${1-}" ] || _gitstate_number=$(_gitstate_number_of "$1")
  _gitstate_arm
  case $_gitstate_number in
    '') _gitstate_save ${1:+--reason "$1"} || return 0 ;; # from the middle of a script, which goes on
    0) _gitstate_leaving "$_gitstate_last" || return 0 ;;
    [1-9]*)
      _gitstate_caught "$_gitstate_number" || return 0
      [ -z "$_gitstate_whole" ] || _gitstate_end
      ;;
    either)
      _gitstate_leaving "$_gitstate_last" || :
      # shellcheck disable=SC2064  # the values of now
      trap "_gitstate_was_signal ${_gitstate_from%% *} $_gitstate_last" EXIT
      [ -z "$_gitstate_whole" ] || exit "$_gitstate_last"
      ;;
  esac
}

# --------------------------------------------------------------------------------------------------------------------
# Traps
# --------------------------------------------------------------------------------------------------------------------

# Set our traps; the traps that were set before run after them. Every function above does it again, so that a trap
# that a script sets later is chained too. A signal that is ignored stays ignored.
_gitstate_arm() {
  local _gitstate_pid=$$ _gitstate_n _gitstate_text
  [ -z "$_gitstate_signal$_gitstate_ended" ] || return 0
  _gitstate_look_for_subshell
  if [ "$_gitstate_pid" != "$_gitstate_owner" ]; then
    # The shell that has begun a task goes on with it after a subshell: `gitstate_run … | tee log`.
    _gitstate_around=${_gitstate_owner:+$_gitstate_begun}
    [ -n "$_gitstate_around" ] || _gitstate_holder='' _gitstate_owner=$_gitstate_pid
    _gitstate_holder=${_gitstate_holder:-$_gitstate_owner}
    _gitstate_owner=$_gitstate_pid _gitstate_child=''
    _gitstate_armed=()
    _gitstate_trap_0='' _gitstate_trap_1='' _gitstate_trap_2='' _gitstate_trap_3='' _gitstate_trap_15=''
  fi
  for _gitstate_n in 0 1 2 3 15 ${_gitstate_others[@]+"${_gitstate_others[@]}"}; do
    _gitstate_read_trap "$_gitstate_n" || continue
    case ${_gitstate_armed[_gitstate_n]-}:$_gitstate_text in
      1:*_gitstate_caught* | 1:*_gitstate_leaving*) continue ;;
    esac
    case $_gitstate_n:$_gitstate_text in
      0:* | 1:* | 2:* | 3:* | 15:* | *:) ;;
      *) continue ;; # a script may go on after its own trap for USR1
    esac
    [ "$_gitstate_n:${_gitstate_armed[0]-}:${ZSH_VERSION:+zsh}:$_gitstate_text" != 0:1:zsh: ] || _gitstate_wait_for_exit_trap
    _gitstate_armed[_gitstate_n]=1
    eval "_gitstate_trap_$_gitstate_n=\$_gitstate_text"
    # The user's text is evaluated where a trap would be: outside of any function of ours, with the status of before.
    # shellcheck disable=SC2064,SC2154  # the number of now
    case $_gitstate_n in
      0) trap "$_gitstate_at_exit" EXIT ;;
      *) trap "if _gitstate_caught $_gitstate_n; then eval \"\$_gitstate_trap_$_gitstate_n\"; _gitstate_end; fi" \
        "$_gitstate_n" ;;
    esac
  done
}

# shellcheck disable=SC2016  # evaluated at the end
_gitstate_at_exit='if _gitstate_leaving "$?"; then eval "$_gitstate_trap_0"; else eval "$_gitstate_trap_0"; fi
_gitstate_die'

# Chain the traps of the first sketch, if a script has set them.
_gitstate_adopt() {
  local _gitstate_n _gitstate_text
  for _gitstate_n in 0 1 2 3 15; do
    _gitstate_read_trap "$_gitstate_n" || continue
    case $_gitstate_text in *cleanup_and_save*) _gitstate_begun=1; _gitstate_arm; return ;; esac
  done
}

# A signal was caught: save, once. Fails if that is done already, or if it is not known yet whether the signal ends the
# shell.
_gitstate_caught() {
  [ -z "$_gitstate_signal" ] || return 1
  [ "$_gitstate_child" != starting ] || [ "${!-}" = "$_gitstate_before" ] || _gitstate_child=$!
  case $1:$_gitstate_child in
    *: | *:starting) ;;
    2:* | 3:*)
      # From a terminal the agent has it too, and may live on. The supervisor sees who sent it, and ends with it or not.
      _gitstate_asked=$1
      kill "-$1" "$_gitstate_child" 2>/dev/null || :
      return 1
      ;;
  esac
  _gitstate_signal=$1
  _gitstate_ignore_signals
  case $1 in
    1 | 2 | 3 | 15) _gitstate_end_run "$1" ;;
    *) _gitstate_end_run 15 ;;
  esac
  _gitstate_due="signal $(builtin kill -l "$1")"
  # Between two tasks nothing is to save, unless the script's own trap calls cleanup_and_save.
  [ -n "$_gitstate_begun${_gitstate_pairs[0]-}" ] || return 0
  # Does nothing where the supervisor has saved all of this; it may have been killed.
  _gitstate_save_due
}

# Save for the end that has come, once.
_gitstate_save_due() {
  _gitstate_ended=1
  _gitstate_save "--${_gitstate_due% *}" "${_gitstate_due#* }" || :
}

# The shell ends while its agent may be at work: the supervisor passes signal $1 on, saves, and ends.
_gitstate_end_run() {
  case $_gitstate_child in
    '' | starting) ;;
    *)
      kill "-$1" "$_gitstate_child" 2>/dev/null || :
      kill -CONT "$_gitstate_child" 2>/dev/null || : # one that is stopped has to be woken for it
      _gitstate_await "$_gitstate_child" || :
      ;;
  esac
}

# The shell ends with this status, or of a signal that was caught. Returns the status that the user's trap is to see.
_gitstate_leaving() {
  local _gitstate_text
  if [ -n "$_gitstate_signal" ]; then
    # One trap for a signal and EXIT has run already.
    _gitstate_get_trap "$_gitstate_signal"
    [ "$_gitstate_trap_0" != "$_gitstate_text" ] || _gitstate_trap_0=''
    # Whatever status the user's EXIT trap ends with, and wherever it fails, the caller is to see the signal.
    set +e
    if [ -n "${ZSH_VERSION-}" ] || [[ ! -o posix ]]; then
      eval 'exit() { _gitstate_die; }'
    fi
    return "$((128 + _gitstate_signal))"
  fi
  [ -z "$_gitstate_ended" ] || return "$1"
  # Until the user's trap runs. After a signal these traps do nothing, and its commands die of SIGPIPE as ever.
  _gitstate_ignore_signals ${_gitstate_others[@]+"${_gitstate_others[@]}"}
  _gitstate_end_run 15
  _gitstate_ended=1
  case $1:${_gitstate_begun:+begun}${_gitstate_around:+ around}:$_gitstate_child in
    0:: | *around:*) ;; # that shell goes on, or ends for its own part
    0:begun:) _gitstate_finish --keep-save || : ;;
    *)
      _gitstate_due="exit-code $1"
      # As after a signal.
      if [ -n "$_gitstate_begun" ]; then _gitstate_save_due; else _gitstate_ended=; fi
      ;;
  esac
  _gitstate_disarm
  return "$1"
}

# After the user's own trap for a signal: the way out leads over the EXIT trap.
_gitstate_end() {
  case $-:$_gitstate_signal in
    *i*:2) # Ctrl-C at a prompt ends what ran, not the shell.
      _gitstate_signal='' _gitstate_due='' _gitstate_ended=''
      _gitstate_disarm
      _gitstate_arm
      ;;
    *) exit "$((128 + _gitstate_signal))" ;;
  esac
}

# The last act of an end by a signal: die of it, so that the caller sees the truth.
_gitstate_die() {
  [ -n "$_gitstate_signal" ] || return 0
  trap - "$_gitstate_signal" EXIT
  case ${ZSH_VERSION:+zsh}:$_gitstate_signal in
    # A shell ignores QUIT, whatever its traps say, and zsh exits on HUP.
    *:3 | zsh:1) exec sh -c 'kill "-$1" "$$"; exit "$((128 + $1))"' sh "$_gitstate_signal" ;;
  esac
  kill "-$_gitstate_signal" "$_gitstate_owner"
  builtin exit "$((128 + _gitstate_signal))"
}

# cleanup_and_save could not tell, and the EXIT trap that it set has come to run: so it was a signal. $1: which one may
# have been; $2: the status that it was taken for.
_gitstate_was_signal() {
  _gitstate_signal=$1
  [ "$2" -ne 0 ] || _gitstate_save --signal "$(builtin kill -l "$1")" || :
  _gitstate_die
}

# Set _gitstate_text to the text of the user's trap for signal $1.
_gitstate_get_trap() {
  eval "_gitstate_text=\${_gitstate_trap_$1-}"
}

# From here to the end of this shell every further signal is swallowed, and a save that was begun is finished. "$@": the
# numbers of more signals.
_gitstate_ignore_signals() {
  local _gitstate_n
  for _gitstate_n in 1 2 3 15 "$@"; do
    [ -z "${_gitstate_armed[_gitstate_n]-}" ] || trap '' "$_gitstate_n"
  done
}

# Give the signals back to the traps that were there.
_gitstate_disarm() {
  local _gitstate_n _gitstate_text
  for _gitstate_n in 1 2 3 15 ${_gitstate_others[@]+"${_gitstate_others[@]}"}; do
    [ -n "${_gitstate_armed[_gitstate_n]-}" ] || continue
    _gitstate_armed[_gitstate_n]=''
    _gitstate_get_trap "$_gitstate_n"
    if [ -n "$_gitstate_text" ]; then
      trap -- "$_gitstate_text" "$_gitstate_n"
    else
      trap - "$_gitstate_n"
    fi
  done
}

# Which trap has called cleanup_and_save? Bash tells since 5.3. Before, it can be seen which traps lead there, and the
# status tells the signal that has interrupted `wait`. Sets _gitstate_number to a number, to `either` (EXIT, or one of
# the signals in _gitstate_from), or to nothing where no trap is running; _gitstate_whole where that is its whole text.
_gitstate_look_for_trap() {
  local _gitstate_n _gitstate_text _gitstate_exit=''
  for _gitstate_n in 0 15 2 1 3 ${_gitstate_others[@]+"${_gitstate_others[@]}"}; do
    # After the others a script goes on, unless it has the same trap for EXIT: what has called is not known then.
    case $_gitstate_n:$_gitstate_exit in 0: | 15:* | 2:* | 1:* | 3:* | *:1) ;; *) break ;; esac
    _gitstate_read_trap "$_gitstate_n" || continue
    _gitstate_is_running "$_gitstate_text" || continue
    case $_gitstate_text in
      *[\;\&\|]* | *"$_gitstate_newline"*) ;;
      cleanup_and_save*) _gitstate_whole=1 ;;
    esac
    case $_gitstate_n in 0) _gitstate_exit=1 ;; *) _gitstate_from="$_gitstate_from$_gitstate_n " ;; esac
  done
  case $_gitstate_exit:$_gitstate_from in
    :) return 0 ;;
    1:) _gitstate_number=0; return 0 ;;
  esac
  if [ -n "${BASH_TRAPSIG-}" ]; then
    case " ${_gitstate_exit:+0 }$_gitstate_from" in *" $BASH_TRAPSIG "*) _gitstate_number=$BASH_TRAPSIG ;; esac
    return 0
  fi
  _gitstate_number=$((_gitstate_last - 128))
  case " $_gitstate_from" in
    *" $_gitstate_number "*) ;;
    *) _gitstate_number=${_gitstate_exit:+either}
       _gitstate_number=${_gitstate_number:-${_gitstate_from%% *}} ;;
  esac
}

# --------------------------------------------------------------------------------------------------------------------
# What each shell says in its own way
# --------------------------------------------------------------------------------------------------------------------

# _gitstate_look_for_subshell: set _gitstate_pid to the process of this shell.
# _gitstate_read_trap: set _gitstate_text to the text of the trap for signal $1. Fails where the signal is ignored.
# _gitstate_is_running: whether the trap's text $1 has led to the running cleanup_and_save, by its name, or by a function
# that it calls.
# _gitstate_keep_here: export the variable $1 no more.
# shellcheck disable=SC2154  # zsh sets some variables
if [ -z "${ZSH_VERSION-}" ]; then
  _gitstate_look_for_subshell() {
    [ "${BASH_SUBSHELL:-0}" -ne 0 ] || return 0
    _gitstate_pid=${BASHPID-}
    [ -n "$_gitstate_pid" ] || _gitstate_pid=$(exec sh -c 'echo "$PPID"')
    # In a subshell `trap -p` shows the parent's traps, which are not in force here, until any trap is changed.
    [ "$_gitstate_pid" = "$_gitstate_owner" ] || [ -n "$(trap -p URG)" ] || trap - URG
  }

  _gitstate_read_trap() {
    eval "set -- $(trap -p "$1")" # trap -- 'text' NAME, quoted by bash itself
    _gitstate_text=${3-}
    [ "$_gitstate_text" != - ] || _gitstate_text='' # posix mode: no trap is set
    [ $# -lt 3 ] || [ -n "$3" ]
  }

  # Bash counts the lines of a trap's text from 1.
  _gitstate_is_running() {
    local _gitstate_frame=2 _gitstate_breaks
    _gitstate_breaks=${1//[!$_gitstate_newline]/}
    [ -n "$1" ] || return 1
    while [ "$_gitstate_frame" -lt "${#FUNCNAME[@]}" ]; do
      case " ${1//[;$_gitstate_newline]/ } " in
        *" ${FUNCNAME[_gitstate_frame]} "*)
          [ "${BASH_VERSINFO[0]}" -gt 3 ] || return 0
          [ "${BASH_LINENO[_gitstate_frame]}" -gt "$((1 + ${#_gitstate_breaks}))" ] || return 0
          ;;
      esac
      _gitstate_frame=$((_gitstate_frame + 1))
    done
    return 1
  }

  _gitstate_keep_here() { export -n "${1?}"; }
else
  _gitstate_look_for_subshell() {
    _gitstate_pid=${sysparams[pid]}
  }

  # Sets _gitstate_listing to what `trap` prints. Zsh tells it to no pipe and to no substitution. A text to evaluate,
  # because zsh hides the EXIT trap from functions. Where a disk is full another one may do.
  # shellcheck disable=SC2016  # evaluated later
  _gitstate_list_traps='
    for _gitstate_file in /dev/shm "${TMPDIR:-/tmp}" /tmp "$HOME"; do
      _gitstate_listing=
      _gitstate_file=$_gitstate_file/gitstate-traps-${sysparams[pid]}-$RANDOM
      sysopen -rw -o creat,excl -m 600 -u _gitstate_fd "$_gitstate_file" 2>/dev/null || continue
      command rm -f "$_gitstate_file"
      { trap; echo "# end"; } >&"$_gitstate_fd" 2>/dev/null
      sysseek -u "$_gitstate_fd" 0
      while IFS= read -r -u "$_gitstate_fd" _gitstate_line; do
        _gitstate_listing=$_gitstate_listing$_gitstate_line$_gitstate_newline
      done
      exec {_gitstate_fd}>&-
      case $_gitstate_listing in *"# end$_gitstate_newline") break ;; esac
    done'

  # A function named TRAPTERM is a trap, too.
  _gitstate_read_trap() {
    local _gitstate_line _gitstate_name _gitstate_listing _gitstate_file _gitstate_fd
    case $1 in
      0) _gitstate_name=EXIT ;;
      1) _gitstate_name=HUP ;;
      2) _gitstate_name=INT ;;
      3) _gitstate_name=QUIT ;;
      15) _gitstate_name=TERM ;;
      *) _gitstate_name=$1 ;;
    esac
    _gitstate_text=''
    if typeset -f "TRAP$_gitstate_name" >/dev/null; then
      [ "$1" = 0 ] || functions -c "TRAP$_gitstate_name" "_gitstate_user_$_gitstate_name"
      _gitstate_text="_gitstate_user_$_gitstate_name $1"
      return 0
    fi
    set --
    eval "$_gitstate_list_traps"
    while IFS= read -r _gitstate_line; do
      case $_gitstate_line in "trap -- "*" $_gitstate_name") eval "set -- $_gitstate_line" ;; esac
    done <<<"$_gitstate_listing"
    _gitstate_text=${3-}
    [ $# -lt 3 ] || [ -n "$3" ]
  }

  _gitstate_is_running() {
    local _gitstate_function
    [ -n "$1" ] || return 1
    for _gitstate_function in ${funcstack[@]+"${funcstack[@]}"}; do
      case $_gitstate_function in
        TRAP*) case $1 in "_gitstate_user_${_gitstate_function#TRAP} "*) return 0 ;; esac ;;
        *)
          case " ${zsh_eval_context[*]} : ${1//[;$_gitstate_newline]/ } " in
            *' trap '*:*" $_gitstate_function "*) return 0 ;;
          esac
          ;;
      esac
    done
    return 1
  }

  _gitstate_keep_here() { typeset +x -g "$1"; }

  # Zsh hides an EXIT trap from functions, and gives it back after them. One that a script sets later, in the place of
  # ours, may run before it is chained: then this function runs after it.
  _gitstate_last() {
    local _gitstate_status=$? _gitstate_pid
    _gitstate_look_for_subshell
    [ "$_gitstate_pid" = "$_gitstate_owner" ] || return 0
    _gitstate_leaving "$_gitstate_status" || :
    _gitstate_die
  }

  # Chain it before the next command outside of all functions, where it can be seen.
  # shellcheck disable=SC2016  # evaluated there
  _gitstate_wait_for_exit_trap() {
    local _gitstate_text
    _gitstate_read_trap DEBUG || return 0
    case $_gitstate_text in *_gitstate_chain_exit*) return 0 ;; esac
    _gitstate_trap_debug=$_gitstate_text
    trap 'case " ${zsh_eval_context[*]} " in
      *" shfunc "*) eval "$_gitstate_trap_debug" ;;
      *) emulate -R ksh -o noaliases -o nolocaltraps -c "eval \"\$_gitstate_chain_exit\""; eval "$_gitstate_trap_debug" ;;
    esac' DEBUG
  }

  # shellcheck disable=SC2016  # evaluated later
  _gitstate_chain_exit='
    eval "$_gitstate_list_traps"
    _gitstate_words=()
    while IFS= read -r _gitstate_line; do
      case $_gitstate_line in "trap -- "*" EXIT") eval "_gitstate_words=($_gitstate_line)" ;; esac
    done <<<"$_gitstate_listing"
    _gitstate_text=${_gitstate_words[2]-}
    if typeset -f TRAPEXIT >/dev/null; then
      functions -c TRAPEXIT _gitstate_user_EXIT
      _gitstate_text=_gitstate_user_EXIT
    fi
    case $_gitstate_text in
      *_gitstate_leaving*) ;;
      *) _gitstate_trap_0=$_gitstate_text; trap "$_gitstate_at_exit" EXIT ;;
    esac
    if [ -n "${_gitstate_trap_debug+set}" ]; then
      trap - DEBUG
      [ -z "$_gitstate_trap_debug" ] || trap -- "$_gitstate_trap_debug" DEBUG
    fi'

  # Zsh would trap signals that were ignored when it started, and lists them as not trapped; its children ignore them,
  # too. The bits of this status: 1 HUP, 2 INT, 4 QUIT, 8 TERM.
  _gitstate_ignored=0
  sh -c 'ignored=0
    (exec sh -c "kill -1 \$\$") && ignored=$((ignored + 1))
    (exec sh -c "kill -2 \$\$") && ignored=$((ignored + 2))
    (exec sh -c "kill -3 \$\$") && ignored=$((ignored + 4))
    (exec sh -c "kill -15 \$\$") && ignored=$((ignored + 8))
    exit "$ignored"' 2>/dev/null || _gitstate_ignored=$?
  [ "$((_gitstate_ignored & 1))" -eq 0 ] || trap '' 1
  [ "$((_gitstate_ignored & 2))" -eq 0 ] || trap '' 2
  [ "$((_gitstate_ignored & 4))" -eq 0 ] || trap '' 3
  [ "$((_gitstate_ignored & 8))" -eq 0 ] || trap '' 15

  eval "$_gitstate_chain_exit"
  _gitstate_owner=${sysparams[pid]}
  _gitstate_armed=(1)
  case " ${zshexit_functions[*]-} " in
    *' _gitstate_last '*) ;;
    *) zshexit_functions=(${zshexit_functions[@]+"${zshexit_functions[@]}"} _gitstate_last) ;;
  esac
fi

# --------------------------------------------------------------------------------------------------------------------
# Calls of gitstate
# --------------------------------------------------------------------------------------------------------------------

_gitstate_save() {
  _gitstate_command save --owner-pid "${_gitstate_holder:-${_gitstate_owner:-$$}}" "$@"
  "${_gitstate_argv[@]}" >/dev/null
}

# Build one call of gitstate in _gitstate_argv. The first sketch's variables, exported or not, go in as they are now.
_gitstate_command() {
  local _gitstate_variable _gitstate_value IFS=$_gitstate_newline # one memory reference a line, where they are an array
  _gitstate_unexport
  _gitstate_await_program
  _gitstate_argv=(env)
  for _gitstate_variable in CURRENT_TASK_ID ISSUE_NUMBER PROGRESS_STAGE MEMORY_REFS; do
    eval "_gitstate_value=\${$_gitstate_variable-}"
    [ "$_gitstate_variable" != MEMORY_REFS ] || _gitstate_value="${MEMORY_REFS[*]-}"
    [ -n "$_gitstate_value" ] || continue
    _gitstate_cut "$_gitstate_variable"
    _gitstate_argv+=("GITSTATE_${_gitstate_variable#CURRENT_}=$_gitstate_value")
  done
  _gitstate_argv+=("$_gitstate_program" -C "$(_gitstate_directory)" "$1")
  case $1:${BRANCH_NAME-} in
    finish:* | *:) ;;
    *)
      _gitstate_value=branch=$BRANCH_NAME # as data: which branch it is gets measured
      _gitstate_cut BRANCH_NAME
      _gitstate_argv+=(--set "$_gitstate_value")
      ;;
  esac
  for _gitstate_value in ${_gitstate_pairs[@]+"${_gitstate_pairs[@]}"}; do
    _gitstate_argv+=(--set "$_gitstate_value")
  done
  case $1 in
    run) shift; _gitstate_argv+=("$@") ;; # the agent's own arguments
    *)
      shift
      for _gitstate_value in "$@"; do
        _gitstate_cut 'an argument'
        _gitstate_argv+=("$_gitstate_value")
      done
      ;;
  esac
}

# An upgrade takes the command away for some seconds. One that does not come back is waited for once.
_gitstate_await_program() {
  case $_gitstate_program in */*) ;; *) return 0 ;; esac
  [ ! -x "$_gitstate_program" ] || _gitstate_patience=50
  while [ ! -x "$_gitstate_program" ] && [ "$_gitstate_patience" -gt 0 ]; do
    _gitstate_patience=$((_gitstate_patience - 1))
    command sleep 0.1 2>/dev/null || command sleep 1 || return 0
  done
}

# Set _gitstate_pairs to the KEY=VALUE arguments, each cut to what a command may be given.
_gitstate_cut_pairs() {
  local _gitstate_value _gitstate_name
  _gitstate_pairs=()
  for _gitstate_value in "$@"; do
    _gitstate_name=${_gitstate_value:0:64}
    _gitstate_cut "${_gitstate_name%%=*}"
    _gitstate_pairs+=("$_gitstate_value")
  done
}

# Cut _gitstate_value, which $1 names: the system starts no command with an argument of 128 KiB, so that no save would be
# made at all.
_gitstate_cut() {
  [ "${#_gitstate_value}" -gt 30000 ] || return 0
  echo "gitstate: $1 is longer than 30000 characters; it was cut" >&2 || :
  _gitstate_value=${_gitstate_value:0:30000}
}

# Nor does it start one while a variable of that size is exported: keep those of the first sketch for this shell alone.
_gitstate_unexport() {
  local _gitstate_variable _gitstate_value
  for _gitstate_variable in CURRENT_TASK_ID ISSUE_NUMBER WORKSPACE_PATH BRANCH_NAME PROGRESS_STAGE MEMORY_REFS; do
    eval "_gitstate_value=\${$_gitstate_variable-}"
    [ "${#_gitstate_value}" -le 30000 ] || _gitstate_keep_here "$_gitstate_variable"
  done
}

# Where a script uses the first sketch's variables too, what is said last counts.
_gitstate_said() {
  local _gitstate_pair
  for _gitstate_pair in "$@"; do
    case $_gitstate_pair in
      task_id=*) [ -z "${CURRENT_TASK_ID-}" ] || CURRENT_TASK_ID=${_gitstate_pair#*=} ;;
      issue_number=*) [ -z "${ISSUE_NUMBER-}" ] || ISSUE_NUMBER=${_gitstate_pair#*=} ;;
      progress_stage=*) [ -z "${PROGRESS_STAGE-}" ] || PROGRESS_STAGE=${_gitstate_pair#*=} ;;
    esac
  done
}

# Where the work is: what the first sketch says, where the task began, or here.
_gitstate_directory() {
  case ${WORKSPACE_PATH-} in
    '') printf %s "${_gitstate_place:-$PWD}" ;;
    /*) printf %s "$WORKSPACE_PATH" ;;
    *) printf %s "$PWD/$WORKSPACE_PATH" ;;
  esac
}

# Wait for a child to end, however often a trap interrupts. Its status is in _gitstate_status.
_gitstate_await() {
  local _gitstate_again=0
  while :; do
    _gitstate_status=0
    wait "$1" 2>/dev/null || _gitstate_status=$?
    [ "$_gitstate_status" -gt 128 ] || break
    kill -0 "$1" 2>/dev/null && continue
    # It may have ended while a trap ran: then bash still knows how.
    wait "$1" 2>/dev/null || _gitstate_again=$?
    # Bash answers 127 for a process that it has forgotten, or -1 where the same signal has ended that.
    [ "$_gitstate_again" -eq 127 ] || [ "$_gitstate_again" -lt 0 ] || _gitstate_status=$_gitstate_again
    break
  done
  return "$_gitstate_status"
}

# A signal's number by its name, with or without SIG, or by its number; nothing where it is none of ours.
_gitstate_number_of() {
  case ${1#SIG} in
    HUP | 1) echo 1 ;; INT | 2) echo 2 ;; QUIT | 3) echo 3 ;; TERM | 15) echo 15 ;; EXIT | 0) echo 0 ;;
  esac
}

_gitstate_adopt
