"""Tests of gitstate.system."""
