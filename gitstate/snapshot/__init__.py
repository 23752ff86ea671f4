"""Disk to objects; moves no ref."""
