"""Proof by fault: each promise of the README with a sweep over every point at which it could be broken.

`docs/reliability.md` has promise, test and figure side by side.
"""
