"""Tests of gitstate.conversation."""
