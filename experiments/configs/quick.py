"""The quick run on embedded near-infrared data.

python experiments/train.py --workdir=runs/quick
"""

from ml_collections import ConfigDict

from mbn_jax.training.config import default_config


def get_config() -> ConfigDict:
    """The defaults."""
    return default_config()
