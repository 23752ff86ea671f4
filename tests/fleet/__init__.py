"""Tests of gitstate.fleet."""
