"""The commands on a finished run, a file each, with ``add_arguments`` and ``run``."""

import argparse


def add_run(parser: argparse.ArgumentParser, bare: bool = False) -> None:
    """RUN, and for commands that take bare weights what it needs to make sense of them."""
    runs = "a run folder, a checkpoint in it, "
    if not bare:
        parser.add_argument("run", metavar="RUN", help=f"{runs}or latest")
        return
    parser.add_argument("run", metavar="RUN", help=f"{runs}latest, or a file of bare weights")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="lenet: the network of bare weights; they have seen pixels in [0, 1]",
    )
