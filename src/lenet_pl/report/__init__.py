"""A page about a run, or about two."""
