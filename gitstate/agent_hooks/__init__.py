"""The hooks of agents: what gitstate does when an agent calls, and how its hooks get into the agent's settings."""
