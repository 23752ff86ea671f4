"""The agent's transcript: kept in append-only pieces beside the saves, and given back where it is gone or torn."""
