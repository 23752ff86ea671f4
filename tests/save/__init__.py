"""Tests of gitstate.save."""
