"""The one exception of this room."""


class DataError(Exception):
    """The data asked for cannot be had: one line that says why and what to do instead."""
