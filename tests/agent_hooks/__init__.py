"""Tests of gitstate.agent_hooks."""
