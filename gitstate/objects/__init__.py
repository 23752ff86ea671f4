"""The object store: read, build, make durable."""
