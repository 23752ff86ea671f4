"""One file for each agent program; nobody else knows their names."""
