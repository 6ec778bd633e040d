"""Train one configuration, or sweep over many.

python train.py trainer.max_epochs=20
python train.py -m optimizer.lr=0.001,0.01,0.1 data.batch_size=32,64,128
"""

import hydra
from omegaconf import DictConfig

from lenet_pl.cli import run
from lenet_pl.errors import exit_on_error


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Hydra calls this for a single run and for each job of a sweep."""
    from lenet_pl.training import train  # imports torch, which --help does not need

    with exit_on_error():
        return train(cfg)


if __name__ == "__main__":
    run(main)
