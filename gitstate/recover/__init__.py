"""Brings a workspace back from a save: facts, then a plan, then the acts, and the marker last."""
