r"""The configuration of another run, or of any JSON file of that form.

    python experiments/train.py --workdir=runs/again \
        --config=experiments/configs/saved.py:runs/quick/config.json

What takes how long, and what it reaches, is what the other run did.
"""

from ml_collections import ConfigDict

from mbn_jax.training.config import read_config_file


def get_config(path: str) -> ConfigDict:
    """What the file says."""
    return read_config_file(path)
