"""Recipes that several configuration files share."""

from ml_collections import ConfigDict

from mbn_jax.errors import InputError
from mbn_jax.training.config import default_config

# Training images of the larger modality // (8 * 4): the batches of an epoch, as AGW
# counts them. Of RegDB it is each of the ten splits.
BATCHES_PER_EPOCH = {
    "sysu_mm01": 22_258 // 32,
    "regdb": 2_060 // 32,
    "llcm": 16_946 // 32,
    "synthetic_vireid/nir": 3_600 // 32,
    "synthetic_vireid/thermal": 2_400 // 32,
}


def agw(dataset: str, norm: str) -> ConfigDict:
    """AGW's training, with its batch normalisation or with MBN in its place.

    AGW (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook",
    TPAMI 2021; the numbers are those of the authors' public code): ImageNet's ResNet-50
    of torchvision, a stem for each modality, non-local blocks, generalised-mean
    pooling, 288 × 144 pixels, 8 identities × (4 visible + 4 infrared), pad-and-crop and
    flip, cross-entropy and weighted regularised triplet, SGD with Nesterov momentum, a
    tenth of the learning rate for the backbone, 81 epochs with a warm-up and two
    decays.

    Not AGW's: the non-local blocks have half the channels inside, where the authors'
    code has one; an anchor is not among its own positives (`mbn_jax.losses`).

    Args:
      dataset: its name, a key of `BATCHES_PER_EPOCH` or a split of RegDB.
      norm: "bn" or "mbn"; each of the stems has its own normalisation with both.

    Raises:
      InputError: the data set has no recipe.
    """
    batches = _batches_per_epoch(dataset)
    config = default_config()
    config.num_steps = 81 * batches
    config.eval_every = 5 * batches
    config.log_every = 50
    config.data.dataset = dataset
    config.data.image_size = (288, 144)
    config.data.num_threads = 4

    config.batch.num_identities = 8
    config.batch.num_images = 4
    config.augmentation.pad = 10
    config.augmentation.flip = 0.5
    config.augmentation.erase = 0.0
    config.augmentation.jitter = 0.0

    config.model.pretrained = "hf:timm/resnet50.tv_in1k"
    config.model.depth = 50
    config.model.width = 1.0
    config.model.norm = norm
    config.model.stem = "separate"
    config.model.non_local = (0, 2, 3, 0)
    config.model.pooling = "gem"
    config.model.last_stride = 1

    config.loss.label_smoothing = 0.0

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.backbone_factor = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "step"
    config.optimizer.warmup_steps = 10 * batches
    config.optimizer.decay_steps = (20 * batches, 50 * batches)
    config.optimizer.decay_factor = 0.1
    return config


def caj(dataset: str, norm: str) -> ConfigDict:
    """CAJ's training: AGW's network, its three augmentations, squared WRT, 100 epochs.

    CAJ (Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition",
    ICCV 2021; the numbers are those of the authors' public code).

    Not CAJ's: channels are exchanged in half of the visible images, where CAJ adds a
    changed copy of each, so that a batch is 8 × (4 + 4) images and not 8 × (8 + 4).
    The square in the loss is not cut off at 88, where the authors' code cuts it, and
    its gradient with it, lest an exponential overflow. What `agw` lists holds as well.

    Args:
      dataset: as for `agw`.
      norm: "bn" or "mbn".

    Raises:
      InputError: the data set has no recipe.
    """
    config = agw(dataset, norm)
    config.num_steps = 100 * _batches_per_epoch(dataset)
    config.augmentation.exchange = 0.5
    config.augmentation.channel_erase = 0.5
    # The authors draw a channel in three of four cases, and gray in half of the fourth.
    config.augmentation.infrared_gray = 0.875
    config.loss.wrt = 0.0
    config.loss.squared_wrt = 1.0
    return config


def _batches_per_epoch(dataset: str) -> int:
    family = "regdb" if dataset.startswith("regdb/split") else dataset
    if family not in BATCHES_PER_EPOCH or dataset == "regdb":
        known = [name for name in BATCHES_PER_EPOCH if name != "regdb"]
        raise InputError(
            f"There is no recipe for the data set {dataset!r}, expected "
            f"{', '.join(known)} or regdb/split1 to regdb/split10 after the colon of "
            "--config=FILE:DATASET."
        )
    return BATCHES_PER_EPOCH[family]
