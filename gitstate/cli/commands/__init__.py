"""One module for each family of commands, with what its commands print."""
