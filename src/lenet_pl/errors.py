"""A mistake of the user's, told in one line; the program ends with status 2."""


class ConfigError(Exception):
    """A configuration that cannot work: names the key, the value and the choices."""
