"""Old saves: listing, retention, exchange with a remote."""
