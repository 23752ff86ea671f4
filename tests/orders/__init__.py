"""Tests of orders to a keeper, and of what agents' hooks leave to others."""
