"""Tests of gitstate.workspace."""
