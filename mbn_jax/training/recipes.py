"""The recipes: configurations by name, as `--config=NAME` or `NAME:DATASET`.

Adding one takes a function and a line in `RECIPES`.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from mbn_jax.data.catalog import info
from mbn_jax.data.sources import known_datasets, source_of
from mbn_jax.errors import InputError
from mbn_jax.training.config import default_config, read_config_file


def get_config(recipe: str = "quick") -> ConfigDict:
    """The configuration of a recipe.

    Args:
        recipe: "quick", "agw:sysu_mm01" and so on, or the path of a config.json.

    Raises:
        InputError: the file cannot be read, the recipe takes no data set, or the data
            set has no recipe.
    """
    if recipe.endswith(".json"):
        return read_config_file(recipe)
    name, _, dataset = recipe.partition(":")
    make = RECIPES[name]
    if not dataset:
        return make()
    if make in (quick, quick_thermal):
        raise InputError(
            f"The recipe {name} takes no data set ({dataset!r}): give "
            f"--config={name} --config.data.dataset={dataset}."
        )
    return make(dataset)


def quick() -> ConfigDict:
    """The defaults: a small network on synthetic near-infrared data.

    About 3 minutes on two CPU cores. Expected on the test split, over two seeds:
    infrared → visible rank-1 43 % and mAP 40 %, visible → infrared 45 % and 43 %
    (docs/results.md).
    """
    return default_config()


def quick_thermal() -> ConfigDict:
    """The quick run on synthetic thermal data, which show no prints.

    About 3 minutes on two CPU cores. Expected on the test split, over two seeds:
    infrared → visible rank-1 17 % and mAP 18 %, visible → infrared 13 % and 15 %
    (docs/results.md).
    """
    config = default_config()
    config.data.dataset = "synthetic_vireid/thermal"
    return config


def agw(
    dataset: str = "sysu_mm01", norm: str = "mbn", data_dir: str = "data"
) -> ConfigDict:
    """AGW's training, with MBN, or with batch normalization as published.

    AGW (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook",
    TPAMI 2021; the numbers are those of the authors' public code): ImageNet's ResNet-50
    of torchvision, a stem for each modality, non-local blocks, generalized-mean
    pooling, 288 × 144 pixels, 8 identities × (4 visible + 4 infrared), pad-and-crop and
    flip, cross-entropy and weighted regularized triplet, SGD with Nesterov momentum, a
    tenth of the learning rate for the backbone, 81 epochs with a warm-up and two
    decays.

    Not AGW's: the non-local blocks have half the channels inside, where the authors'
    code has one; an anchor is not among its own positives (`mbn_jax.losses`).

    docs/recipes.md has the commands, the number of steps, and published metrics.

    Args:
        dataset: its name; a data set of your own must be prepared.
        norm: "bn" or "mbn"; each of the stems has its own normalization with both.
        data_dir: the directory of prepared data sets.

    Raises:
        InputError: the data set has no recipe.
    """
    batches = _batches_per_epoch(dataset, data_dir)
    config = default_config()
    config.num_steps = 81 * batches
    config.eval_every = 5 * batches
    config.log_every = 50
    config.data.dataset, config.data.data_dir = dataset, data_dir
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


def caj(
    dataset: str = "sysu_mm01", norm: str = "mbn", data_dir: str = "data"
) -> ConfigDict:
    """CAJ's training: AGW's network, its three augmentations, squared WRT, 100 epochs.

    CAJ (Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition",
    ICCV 2021; the numbers are those of the authors' public code).

    Not CAJ's: channels are exchanged in half of the visible images, where CAJ adds a
    changed copy of each, so that a batch is 8 × (4 + 4) images and not 8 × (8 + 4).
    The authors' code cuts the square in the loss off at 88, and its gradient with it,
    to prevent an overflow; here it is not cut off. What `agw` lists holds as well.

    Args:
        dataset: as for `agw`.
        norm: "bn" or "mbn".
        data_dir: as for `agw`.

    Raises:
        InputError: the data set has no recipe.
    """
    config = agw(dataset, norm, data_dir)
    config.num_steps = 100 * _batches_per_epoch(dataset, data_dir)
    config.augmentation.exchange = 0.5
    config.augmentation.channel_erase = 0.5
    # The authors draw a channel in three of four cases, and gray in half of the fourth.
    config.augmentation.infrared_gray = 0.875
    config.loss.wrt = 0.0
    config.loss.squared_wrt = 1.0
    return config


def _batches_per_epoch(dataset: str, data_dir: str) -> int:
    """Training images of the larger modality // (8 * 4), as AGW counts an epoch."""
    source = source_of(dataset)
    if source and not source.knows(dataset):
        raise InputError(
            f"There is no recipe for the data set {dataset!r}, expected"
            f" {known_datasets()} or a data set of your own after the colon of"
            " --config=RECIPE:DATASET."
        )
    images = source.images_per_modality.get(dataset) if source else None
    if images is None:
        images = max(info(dataset, data_dir).counts["train"].values())
    return max(1, images // 32)


RECIPES: dict[str, Callable[..., ConfigDict]] = {
    "quick": quick,
    "quick_thermal": quick_thermal,
    "agw": agw,
    "caj": caj,
}
