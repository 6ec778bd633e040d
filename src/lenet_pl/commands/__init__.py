"""The commands on a finished run, a file each, with ``add_arguments`` and ``run``."""
