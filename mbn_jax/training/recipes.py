"""Recipes that several configuration files share."""

from ml_collections import ConfigDict

from mbn_jax.training.config import default_config


def agw(dataset: str, batches_per_epoch: int) -> ConfigDict:
    """AGW's training, with MBN, for a real data set.

    AGW (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook",
    TPAMI 2021; the numbers are those of the authors' public code): 288 × 144 pixels,
    8 identities × (4 visible + 4 infrared), pad-and-crop and flip, cross-entropy and
    weighted regularised triplet, SGD with Nesterov momentum, a tenth of the learning
    rate for the backbone, 81 epochs with a warm-up and two decays.

    Not AGW's: every normalisation is by modality, where AGW has two stems and batch
    normalisation; average pooling, where AGW has generalised-mean pooling; no non-local
    blocks; and random initial weights, where AGW has ImageNet's. Published figures are
    not to be expected of it.

    Args:
      dataset: its name.
      batches_per_epoch: images of the larger modality // (8 * 4), in training.
    """
    config = default_config()
    config.num_steps = 81 * batches_per_epoch
    config.eval_every = 5 * batches_per_epoch
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

    config.model.depth = 50
    config.model.width = 1.0
    config.model.norm = "mbn"
    config.model.last_stride = 1

    config.loss.label_smoothing = 0.0
    config.loss.pairwise = "wrt"

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.backbone_factor = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "step"
    config.optimizer.warmup_steps = 10 * batches_per_epoch
    config.optimizer.decay_steps = (20 * batches_per_epoch, 50 * batches_per_epoch)
    config.optimizer.decay_factor = 0.1
    return config
