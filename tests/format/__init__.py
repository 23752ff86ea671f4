"""Tests of gitstate.objects."""
