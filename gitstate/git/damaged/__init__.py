"""Repositories that git can't use as they are: what it can't read of them, why it opens none, and what mends it."""
