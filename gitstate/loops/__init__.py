"""The agent at work again: one run after a crash, or one task after the other."""
