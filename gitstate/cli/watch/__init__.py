"""`status --watch`: a live table of many workspaces, on the whole of a terminal or in plain text."""
