"""Tests of gitstate.run."""
