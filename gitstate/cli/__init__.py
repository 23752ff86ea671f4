"""The command line: parses, makes one call, prints the answer."""
