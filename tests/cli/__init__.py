"""Tests of gitstate.cli."""
