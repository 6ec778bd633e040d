"""What ``lenet-pl train`` runs: a file, since Lightning starts further processes by file name."""

from lenet_pl.cli import train

if __name__ == "__main__":
    train()
