"""The configuration of a run: its defaults, its rules, its file.

A recipe calls `default_config`, changes what it wants and returns the result. The
defaults are the quick run: a narrow ResNet-18 on the synthetic near-infrared data.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mbn_jax.data.sampling import SAMPLERS
from mbn_jax.errors import InputError
from mbn_jax.files import check_named, read_json
from mbn_jax.models.layers import NORMS, PLACES
from mbn_jax.models.reid import POOLINGS
from mbn_jax.models.resnet import STAGES, STEMS, VARIANTS

_OF_PAIRS = ("wrt", "squared_wrt", "triplet", "circle", "hetero_center_triplet")
LOSSES = ("identity", "hetero_center", *_OF_PAIRS)

# What may differ between the processes of one run.
PROCESS_KEYS = (
    "log_every",
    "profile_steps",
    "compilation_cache",
    "data.data_dir",
    "data.num_threads",
)
# What may differ when a run is resumed: where and how fast it runs.
MACHINE_KEYS = (
    *PROCESS_KEYS,
    "num_devices",
    "parallelism",
    "max_skipped_in_a_row",
    "gap_batches",
    "model.remat",
)

_MOST = 2**31  # of whole numbers: steps are counted in int32
_MOST_THREADS = 1024
_MOST_WIDTH = 1e9  # beyond this the sizes of arrays overflow


def default_config() -> ConfigDict:
    """The quick run, locked: an unknown key is an error."""
    config = ConfigDict()
    config.seed = 0  # of weights, batches and augmentation
    config.num_steps = 1500
    config.num_devices = 0  # 0: all; on a CPU, n makes n devices of it
    # How a step runs on several devices: "jit", "shard_map" or "pmap". docs/scaling.md
    config.parallelism = "jit"
    # Steps whose loss or gradient is not finite change nothing; more of them in a row
    # than this end the run.
    config.max_skipped_in_a_row = 0
    # "10:15" writes a trace of these steps into the work directory, for TensorBoard.
    config.profile_steps = ""
    # Directory of compiled programs, which later runs take up. "default": that of
    # JAX_COMPILATION_CACHE_DIR, or .jax_cache beside the work directory. "": none.
    config.compilation_cache = "default"
    config.log_every = 10  # steps
    # Steps between checkpoints, and validations, if there is any.
    config.eval_every = 300

    # Batches that the report measures the distribution gaps on; 0 leaves them out.
    config.gap_batches = 32

    config.data = ConfigDict()
    config.data.dataset = "synthetic_vireid/nir"
    config.data.data_dir = "data"
    config.data.image_size = (96, 48)  # height, width
    config.data.num_threads = 2  # that decode
    # Leave out, and count, records for training that cannot be read, instead of
    # stopping. A damaged record of the test always stops the run.
    config.data.skip_damaged = False
    # Identities taken out of training for validation. 0: the validation split of the
    # data set; the real ones have none: train on everything, take the last step.
    config.data.num_val_identities = 0

    config.batch = ConfigDict()
    config.batch.num_identities = 16  # P
    config.batch.num_images = 2  # K, of each modality
    # "balanced": P identities with K images in each of the M modalities; "agnostic": P
    # identities with M K images, whatever their modality; "natural": M P K images as
    # they come.
    config.batch.sampler = "balanced"
    # Parts that a batch is worked through in, one after the other, to save memory on an
    # accelerator. Each has statistics and pairs of its own: it is P / parts identities.
    config.batch.accumulation_steps = 1

    config.augmentation = ConfigDict()
    config.augmentation.pad = 4  # pixels on each side before cropping
    config.augmentation.flip = 0.5  # probability
    config.augmentation.erase = 0.0  # probability
    config.augmentation.jitter = 0.3  # strength of brightness, contrast, saturation
    # Of modalities with color (mbn_jax.modalities.COLOR):
    config.augmentation.exchange = 0.0  # probability; one channel in all three
    config.augmentation.gray = 0.0  # probability
    # Of the others:
    config.augmentation.infrared_gray = 0.0  # probability; one channel or gray
    # Of all:
    config.augmentation.channel_erase = 0.0  # probability; fills channels differently

    config.model = ConfigDict()
    # Weights to start from. ImageNet's: a .safetensors file with torchvision's names,
    # hf:owner/name, or a folder of Keras's ResNet-50 for TensorFlow.js, with
    # model.stride_in_1x1. Or a folder of shared weights (mbn_jax.save_pretrained).
    config.model.pretrained = ""
    config.model.depth = 18
    config.model.variant = "resnet"  # or "se_resnet", "resnet_ibn_a"
    config.model.stem = "shared"  # or "separate": one for each modality
    config.model.non_local = (0, 0, 0, 0)  # blocks at the end of each stage
    config.model.pooling = "average"  # or "gem", "learned_gem": generalized mean
    config.model.neck_bias = False
    config.model.width = 0.25
    config.model.norm = "mbn"  # or "bn"
    config.model.mbn_at = PLACES  # where "mbn" is by modality; elsewhere it is "bn"
    config.model.share_affine = True
    config.model.last_stride = 1  # 2 is coarser and a little faster
    config.model.stride_in_1x1 = False  # of bottlenecks; for Keras's weights
    config.model.momentum = 0.9  # of the running statistics
    config.model.dtype = "float32"  # or "bfloat16"
    config.model.remat = False  # compute blocks twice and keep less between

    config.loss = ConfigDict()
    # Weights; a loss of weight 0 is not computed.
    config.loss.identity = 1.0  # cross-entropy
    config.loss.wrt = 1.0  # weighted regularized triplet, of AGW
    config.loss.squared_wrt = 0.0  # the same of squared differences, of CAJ
    config.loss.triplet = 0.0  # batch hard
    config.loss.circle = 0.0
    config.loss.hetero_center = 0.0
    config.loss.hetero_center_triplet = 0.0
    config.loss.label_smoothing = 0.1  # of "identity"
    config.loss.margin = 0.3  # of "triplet" and "hetero_center_triplet"
    config.loss.circle_margin = 0.25
    config.loss.circle_scale = 64.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "sgd"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.backbone_factor = 1.0  # times the learning rate
    config.optimizer.momentum = 0.9  # of "sgd"
    config.optimizer.nesterov = True  # of "sgd"
    config.optimizer.weight_decay = 1e-3
    config.optimizer.schedule = "cosine"  # or "step", "constant"
    config.optimizer.warmup_steps = 50
    config.optimizer.decay_steps = (750, 1100)  # of "step"
    config.optimizer.decay_factor = 0.1  # of "step"
    return config.lock()


_Rule = tuple[str, Callable[[Any], bool]]  # what is expected, and whether it holds


def _are_integers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST
        for value in values
    )


def _one_of(*allowed: str | int) -> _Rule:
    return " or ".join(map(str, allowed)), allowed.__contains__


_ANY: _Rule = ("anything", lambda v: True)
_NOT_NEGATIVE: _Rule = ("0 or more", lambda v: 0 <= v < math.inf)
_AT_LEAST_ONE: _Rule = ("1 or more", lambda v: v >= 1)
_FRACTION: _Rule = ("0 to 1", lambda v: 0 <= v <= 1)

# Beside the type, that of the default. Numbers without a rule must not be negative.
_RULES: dict[str, _Rule] = {
    "num_steps": _AT_LEAST_ONE,
    "parallelism": _one_of("jit", "shard_map", "pmap"),
    "log_every": _AT_LEAST_ONE,
    "eval_every": _AT_LEAST_ONE,
    "gap_batches": ("0, or 2 or more", lambda v: v == 0 or v >= 2),
    "data.image_size": (
        "(height, width) of 16 or more pixels",
        lambda v: len(v) == 2 and _are_integers(v) and min(v) >= 16,
    ),
    "data.num_threads": (f"1 to {_MOST_THREADS}", lambda v: 1 <= v <= _MOST_THREADS),
    "batch.num_identities": _AT_LEAST_ONE,
    "batch.num_images": _AT_LEAST_ONE,
    "batch.sampler": _one_of(*SAMPLERS),
    "batch.accumulation_steps": _AT_LEAST_ONE,
    "augmentation.flip": _FRACTION,
    "augmentation.erase": _FRACTION,
    "augmentation.exchange": _FRACTION,
    "augmentation.gray": _FRACTION,
    "augmentation.infrared_gray": _FRACTION,
    "augmentation.channel_erase": _FRACTION,
    "model.depth": _one_of(*STAGES),
    "model.variant": _one_of(*VARIANTS),
    "model.stem": _one_of(*STEMS),
    "model.non_local": (
        "numbers of blocks, 0 or more, for the four stages",
        lambda v: len(v) == 4 and _are_integers(v) and min(v) >= 0,
    ),
    "model.pooling": _one_of(*POOLINGS),
    "model.width": (
        f"more than 0 and up to {_MOST_WIDTH:g}",
        lambda v: 0 < v <= _MOST_WIDTH,
    ),
    "model.norm": _one_of(*NORMS),
    "model.mbn_at": (
        f"some of {', '.join(PLACES)}",
        lambda v: all(place in PLACES for place in v),
    ),
    "model.last_stride": _one_of(1, 2),
    "model.momentum": _FRACTION,
    "model.dtype": _one_of("float32", "bfloat16"),
    "loss.label_smoothing": _FRACTION,
    "loss.circle_margin": _FRACTION,
    "optimizer.name": _one_of("sgd", "adamw"),
    "optimizer.momentum": _FRACTION,
    "optimizer.schedule": _one_of("cosine", "step", "constant"),
    "optimizer.decay_steps": (
        "steps in rising order",
        lambda v: _are_integers(v) and list(v) == sorted(v),
    ),
}


def check(config: ConfigDict) -> None:
    """Refuses values that no run can use.

    Raises:
        InputError: names the first key that is wrong, its value and what was expected.
    """
    values = flatten_dict(config.to_dict(), sep=".")
    defaults = flatten_dict(default_config().to_dict(), sep=".")
    for key in sorted(values.keys() ^ defaults.keys()):
        if key in values:
            raise InputError(unknown(key))
        raise InputError(
            f"The configuration lacks {key!r}; start a configuration file from "
            "mbn_jax.training.config.default_config()."
        )
    for key, default in defaults.items():
        value = values[key]
        if expected := _other_type(value, default):
            raise InputError(
                f"config.{key} is {value!r}, expected {expected}, as for example "
                f"{default!r}."
            )
        no_rule = _NOT_NEGATIVE if isinstance(value, int | float) else _ANY
        expected, holds = _RULES.get(key, no_rule)
        if not holds(value):
            raise InputError(f"config.{key} is {value!r}, expected {expected}.")
    batch = config.batch
    if batch.num_identities % batch.accumulation_steps:
        raise InputError(
            f"config.batch.accumulation_steps is {batch.accumulation_steps}, expected "
            f"a divisor of batch.num_identities, {batch.num_identities}: every part of "
            "a batch holds whole identities."
        )
    uses_pairs = any(config.loss[name] for name in _OF_PAIRS)
    if uses_pairs and batch.num_identities == batch.accumulation_steps > 1:
        raise InputError(
            f"config.batch.accumulation_steps is {batch.accumulation_steps}, so that a "
            "part would hold one identity and losses of pairs no negatives; give half "
            f"of it or less, or 0 to {', '.join(_OF_PAIRS)} in config.loss."
        )
    blocks = STAGES[config.model.depth][1]
    if any(n > b for n, b in zip(config.model.non_local, blocks, strict=True)):
        raise InputError(
            f"config.model.non_local is {config.model.non_local}, expected no more "
            f"than the stages of depth {config.model.depth} have blocks, {blocks}."
        )
    profile_steps(config)
    if not any(config.loss[name] for name in LOSSES):
        raise InputError(
            "config.loss leaves nothing to learn from: give one of "
            f"{', '.join(LOSSES)} a value above 0."
        )


def _other_type(value: Any, default: Any) -> str:
    """What is expected if a value does not have the type of the default, else ""."""
    if isinstance(default, int) and not isinstance(default, bool):
        return "" if _are_integers([value]) else f"a whole number below {_MOST}"
    if isinstance(default, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number else "a number"
    words = {str: "text", bool: "True or False", tuple: "a tuple"}
    return "" if isinstance(value, type(default)) else words[type(default)]


def unknown(key: str) -> str:
    """Returns a message about a key that does not exist; names the most similar one."""
    known = flatten_dict(default_config().to_dict(), sep=".")
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    return f"there is no configuration key {key!r}, did you mean {nearest!r}?"


def profile_steps(config: ConfigDict) -> range:
    """Returns the steps to trace, counted from 1.

    Raises:
        InputError: `config.profile_steps` is not like "10:15".
    """
    if not config.profile_steps:
        return range(0)
    found = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", config.profile_steps)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise InputError(
            f"config.profile_steps is {config.profile_steps!r}, expected the first and "
            "the last step, like '10:15', or '' for none."
        )
    return range(first, last + 1)


def differences(
    configs: Sequence[Mapping[str, Any]], ignore: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Finds the keys in which nested configurations differ.

    Args:
        configs: for example of `as_json`.
        ignore: keys, joined by dots, that may differ.

    Returns:
        By the key, joined by dots, the value in every configuration; None where it
        lacks the key.
    """
    flat = [flatten_dict(config, sep=".") for config in configs]
    values = {
        key: [config.get(key) for config in flat]
        for key in dict.fromkeys(key for config in flat for key in config)
        if key not in ignore
    }
    return {k: v for k, v in values.items() if any(one != v[0] for one in v)}


def read_config(workdir: str | Path) -> ConfigDict:
    """Reads the configuration that a work directory was made with.

    Raises:
        InputError: there is none, or it is damaged.
    """
    check_named(workdir)
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise InputError(
            f"{workdir} is not a work directory, since it holds no config.json; give "
            "the --workdir of a run of `python -m mbn_jax train`."
        )
    return read_config_file(path)


def read_config_file(path: str | Path) -> ConfigDict:
    """Reads a configuration from a JSON file with the content of `as_json`.

    Raises:
        InputError: it cannot be read, has keys of another version, or holds a value
            that `check` refuses.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no configuration at {path}, expected a JSON file.")
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in flatten_dict(read_json(Path(path)), sep=".").items()
    }
    config = default_config()
    for key in sorted(values.keys() ^ flatten_dict(config.to_dict(), sep=".").keys()):
        if key in values:
            raise InputError(
                f"{path} has the key {key!r}, which this version of mbn_jax does not "
                "know; use the version that wrote it."
            )
        if key not in MACHINE_KEYS:
            raise InputError(
                f"{path} lacks the key {key!r}; it was written by an older version of "
                "mbn_jax: use that one."
            )
    try:
        config.update_from_flattened_dict(values)
        check(config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())}); restore it from a "
            "copy."
        ) from error
    return config


def as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as JSON reads it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))
