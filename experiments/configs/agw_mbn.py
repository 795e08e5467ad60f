r"""AGW with modality batch normalisation in place of batch normalisation.

    python experiments/train.py --workdir=runs/agw-mbn-sysu \
        --config=experiments/configs/agw_mbn.py:sysu_mm01

After the colon stands the data set: sysu_mm01, regdb/split1 to regdb/split10, llcm,
synthetic_vireid/nir or synthetic_vireid/thermal; the real ones must be prepared
(docs/datasets.md), and RegDB's figure is the mean over its ten splits:

    for split in 1 2 3 4 5 6 7 8 9 10; do
      python experiments/train.py --workdir=runs/agw-mbn-regdb-$split \
          --config=experiments/configs/agw_mbn.py:regdb/split$split
    done
    python experiments/evaluate.py --workdir='runs/agw-mbn-regdb-{split}'

The weights of ImageNet come from the Hugging Face hub, 102 MB, unless
--config.model.pretrained names a file of them ("" for random ones).

81 epochs: 56,295 steps of 64 images for SYSU-MM01, 5,184 for a split of RegDB, 42,849
for LLCM, 9,072 and 6,075 for the embedded data.
In this order, computing takes 24 minutes, 2, 18, 4 and 2½ on an H100
SXM whose memory never waits: 85 GB a step, as XLA counts them in the program for a
CPU, at 3.35 TB/s. That is computed (`python benchmarks/scaling.py recipes`), not
measured, and no validation, no decoding of images is in it.

To compare with, rank-1 and mAP of AGW as published (docs/recipes.md): SYSU-MM01 all
search 47.50 / 47.65, indoor 54.17 / 62.97; RegDB visible → infrared 70.05 / 66.37, back
70.49 / 65.90; LLCM infrared → visible 43.6 / 51.8, back 51.5 / 55.3. Its own
figures with MBN are not known to us, and nobody has trained it on the real data with
this code that we know of.
"""

from ml_collections import ConfigDict

from mbn_jax.training import recipes


def get_config(dataset: str = "sysu_mm01") -> ConfigDict:
    """The configuration of `recipes.agw`, which says what of it is not AGW's."""
    return recipes.agw(dataset, norm="mbn")
