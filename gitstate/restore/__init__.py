"""What a save holds, compared with a workspace and written back: files, index, operation, nested repositories."""
