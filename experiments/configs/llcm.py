r"""AGW's training with MBN on LLCM.

    python experiments/prepare_data.py --dataset=llcm --manual_dir=LLCM
    python experiments/train.py --workdir=runs/llcm --config=experiments/configs/llcm.py

needs the prepared data (docs/datasets.md) and, in practice, a GPU: 42,849 steps of 64
images. It trains on all 713 training identities and takes the last step. No figure of
this recipe on these data has been measured here: they are given out on request, and we
have none. What it shares with AGW, and what not (ImageNet weights above all):
`mbn_jax.training.recipes.agw`.
"""

from ml_collections import ConfigDict

from mbn_jax.training import recipes


def get_config() -> ConfigDict:
    """16,946 visible training images: 529 batches an epoch."""
    return recipes.agw("llcm", batches_per_epoch=529)
