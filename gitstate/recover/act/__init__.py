"""Parts of a recovery that are imported where there is something to bring back: branch, nested repositories, report."""
