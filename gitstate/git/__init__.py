"""Asks git, and reads git's own files; knows nothing of a save."""
