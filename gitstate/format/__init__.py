"""What a save looks like in a repository: the specification, and its reader."""
