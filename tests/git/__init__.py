"""Tests of gitstate.git."""
