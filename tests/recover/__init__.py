"""Tests of gitstate.recover."""
