"""Request, plan, build, publish: the order is the protocol."""
