"""Where other programs call gitstate: git hooks, agents' hooks, schedulers."""
