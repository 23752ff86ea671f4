"""What others ask the keeper of a run for while it works, over a socket in gitstate's own directory of the worktree."""
