r"""The settings of the study, which asks whether MBN makes a network better.

    python -m mbn_jax ablate --workdir=runs/a --flagfile=docs/study/patches.flags

After the colon of --config=experiments/configs/study.py:NAME stands one of

  patches    scene patches, a ResNet-50 with ImageNet's weights, fine-tuned
  random     scene patches, a quarter of a ResNet-18 from random weights
  synthetic  synthetic_vireid, the quick run's network, until it has learned

What differs within each of them is in docs/study/NAME.flags: data, backbone, loss,
affine, batches, seeds. docs/study.md says how the data and the weights are made.
"""

from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.training.config import default_config


def get_config(name: str = "synthetic") -> ConfigDict:
    """The configuration that all runs of a part of the study share."""
    config = default_config()
    config.gap_batches = 16
    # The quick run's values when the study began: another recipe is another study.
    config.num_steps = 1500
    config.batch.num_identities = 16
    config.batch.num_images = 2
    config.augmentation.jitter = 0.3
    config.model.last_stride = 1
    if name == "synthetic":
        return config
    config.data.dataset = "aligned_pairs/split-x2"
    config.data.image_size = (64, 64)
    config.augmentation.jitter = 0.0
    if name == "random":
        return config
    if name != "patches":
        raise InputError(
            f"The study has no setting {name!r}, expected patches, random or synthetic."
        )
    config.num_steps = 400  # as the pilot run of docs/study.md needed
    config.model.pretrained = "package/ResNet50"
    config.model.stride_in_1x1 = True
    config.model.last_stride = 2  # at 64 × 64 a finer map costs half as much again
    config.model.depth = 50
    config.model.width = 1.0
    config.optimizer.learning_rate = 3e-3
    config.optimizer.backbone_factor = 0.1
    return config
