r"""AGW's training with MBN on SYSU-MM01.

    python experiments/prepare_data.py --dataset=sysu_mm01 --manual_dir=SYSU-MM01
    python experiments/train.py --workdir=runs/sysu_mm01 \
        --config=experiments/configs/sysu_mm01.py

needs the prepared data (docs/datasets.md) and, in practice, a GPU: 56,295 steps of 64
images. It trains on all 395 training identities and takes the last step;
--config.data.num_val_identities=40 takes 40 of them out for validation. No figure of
this recipe on these data has been measured here: they are given out on request, and we
have none. What it shares with AGW, and what not (ImageNet weights above all):
`mbn_jax.training.recipes.agw`.
"""

from ml_collections import ConfigDict

from mbn_jax.training import recipes


def get_config() -> ConfigDict:
    """22,258 visible training images: 695 batches an epoch."""
    return recipes.agw("sysu_mm01", batches_per_epoch=695)
