"""Tests of gitstate.hooks: the shell library, the ready loops, with real shells."""
