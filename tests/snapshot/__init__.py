"""Tests of gitstate.snapshot."""
