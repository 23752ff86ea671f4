"""What tests share: the workspace, the oracle, agents, templates."""
