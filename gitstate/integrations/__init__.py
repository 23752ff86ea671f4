"""Where other programs call gitstate: git hooks, and schedulers at boot."""
