"""Many workspaces: recovery of all, and what is wrong."""
