"""Tests of gitstate.history."""
