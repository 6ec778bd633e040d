"""Our presets of the launchers and sweepers that come as plugins, in ``conf/hydra``."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

# Hydra copies its store, schemas of all plugins included, whenever it looks at a group: a second of
# --help. There is one store to a process, and what is loaded from it is a copy anyway.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]

PRESETS = {
    "launcher": ("joblib", "ray", "submitit_local", "submitit_slurm"),
    "sweeper": ("optuna",),
}


def prefer_own_presets() -> None:
    """Let ``conf/hydra`` alone say what ``hydra/launcher=joblib`` and the like mean.

    A plugin registers a schema under the same name, and Hydra holds the one against the other:
    with a deprecation warning per process, and not at all where the schema has defaults.
    """
    Plugins.instance()  # finds the plugins, which register their schemas
    groups = ConfigStore.instance().repo["hydra"]
    for group, names in PRESETS.items():
        for name in names:
            groups[group].pop(f"{name}.yaml", None)
