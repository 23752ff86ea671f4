"""Tests of gitstate.loops."""
