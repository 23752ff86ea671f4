"""Tests of gitstate.agents."""
