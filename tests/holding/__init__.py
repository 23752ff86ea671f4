"""Tests of gitstate.holding."""
