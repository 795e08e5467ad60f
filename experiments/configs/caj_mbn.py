r"""CAJ with modality batch normalisation in place of batch normalisation.

    python experiments/train.py --workdir=runs/caj-mbn-sysu \
        --config=experiments/configs/caj_mbn.py:sysu_mm01

After the colon stands the data set: sysu_mm01, regdb/split1 to regdb/split10, llcm,
synthetic_vireid/nir or synthetic_vireid/thermal; the real ones must be prepared
(docs/datasets.md), and RegDB's figure is the mean over its ten splits:

    for split in 1 2 3 4 5 6 7 8 9 10; do
      python experiments/train.py --workdir=runs/caj-mbn-regdb-$split \
          --config=experiments/configs/caj_mbn.py:regdb/split$split
    done
    python experiments/evaluate.py --workdir='runs/caj-mbn-regdb-{split}'

The weights of ImageNet come from the Hugging Face hub, 102 MB, unless
--config.model.pretrained names a file of them ("" for random ones).

100 epochs: 69,500 steps of 64 images for SYSU-MM01, 6,400 for a split of RegDB, 52,900
for LLCM, 11,200 and 7,500 for the embedded data.
In this order, computing takes 29 minutes, 3, 22, 5 and 3 on an H100
SXM whose memory never waits: 85 GB a step, as XLA counts them in the program for a
CPU, at 3.35 TB/s. That is computed (`python benchmarks/scaling.py recipes`), not
measured, and no validation, no decoding of images is in it.

CAJ is tested with the mean of an image's and its mirror image's features:
experiments/evaluate.py --flip_average. To compare with, rank-1 and mAP of CAJ with
batch normalisation as published (docs/recipes.md): SYSU-MM01 all search 69.88 / 66.89,
indoor 76.3 / 80.4; RegDB visible → infrared 85.03 / 79.14, back 84.8 / 77.8. Its
figures with MBN are not known to us, and nobody has trained it on the real data with
this code that we know of.
"""

from ml_collections import ConfigDict

from mbn_jax.training import recipes


def get_config(dataset: str = "sysu_mm01") -> ConfigDict:
    """The configuration of `recipes.caj`, which says what of it is not CAJ's."""
    return recipes.caj(dataset, norm="mbn")
