"""One workspace: settings, ownership, live context, state file, files."""
