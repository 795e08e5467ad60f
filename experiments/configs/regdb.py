r"""AGW's training with MBN on RegDB.

    python experiments/prepare_data.py --dataset=regdb --manual_dir=RegDB
    for split in 1 2 3 4 5 6 7 8 9 10; do
      python experiments/train.py --workdir=runs/regdb_$split \
          --config=experiments/configs/regdb.py --config.data.dataset=regdb/split$split
    done
    python experiments/evaluate.py --workdir='runs/regdb_{split}'

needs the prepared data (docs/datasets.md) and, in practice, a GPU: 5,184 steps of 64
images. A figure of RegDB is the mean over its ten splits, each with a network of its
own. No figure of this recipe on these data has been measured here: they are given out
on request, and we have none. What it shares with AGW, and what not (ImageNet weights
above all): `mbn_jax.training.recipes.agw`.
"""

from ml_collections import ConfigDict

from mbn_jax.training import recipes


def get_config() -> ConfigDict:
    """2,060 training images of each modality: 64 batches an epoch."""
    return recipes.agw("regdb/split1", batches_per_epoch=64)
