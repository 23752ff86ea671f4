"""Writes what a save holds back into a workspace: files, index, unfinished operation, sparse patterns."""
