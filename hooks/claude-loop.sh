#!/bin/sh
# Runs Claude Code on one task after another, and resumes it after any end of the last run: `gitstate loop claude --help`.
exec gitstate loop claude "$@"
