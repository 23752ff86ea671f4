"""Facts, plan, act; the marker last."""
