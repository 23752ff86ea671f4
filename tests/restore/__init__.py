"""Tests of gitstate.restore."""
