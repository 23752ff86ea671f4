#!/bin/sh
# Runs Kimi Code on one task after another, and resumes it after any end of the last run: `gitstate loop kimi --help`.
exec gitstate loop kimi "$@"
