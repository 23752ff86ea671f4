"""The agent programs: one file for each, with its settings, hooks, sessions and resume command."""
