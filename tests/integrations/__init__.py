"""Tests of gitstate.integrations."""
