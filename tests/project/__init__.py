"""Tests of the project itself: its layers, its documents, its wheel."""
