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

from flax.traverse_util import flatten_dict, unflatten_dict
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
_GAP_BATCHES: _Rule = ("0, or 2 or more", lambda v: v == 0 or v >= 2)
_IMAGE_SIZE: _Rule = (
    "(height, width) of 16 or more pixels",
    lambda v: len(v) == 2 and _are_integers(v) and min(v) >= 16,
)
_THREADS: _Rule = (f"1 to {_MOST_THREADS}", lambda v: 1 <= v <= _MOST_THREADS)
_NON_LOCAL: _Rule = (
    "numbers of blocks, 0 or more, for the four stages",
    lambda v: len(v) == 4 and _are_integers(v) and min(v) >= 0,
)
_WIDTH: _Rule = (
    f"more than 0 and up to {_MOST_WIDTH:g}",
    lambda v: 0 < v <= _MOST_WIDTH,
)
_MBN_AT: _Rule = (f"some of {', '.join(PLACES)}", lambda v: all(p in PLACES for p in v))
_RISING: _Rule = (
    "steps in rising order",
    lambda v: _are_integers(v) and list(v) == sorted(v),
)

# The default of every key, and a rule for its value beside the type of the default.
_KEYS: dict[str, tuple[Any, _Rule]] = {
    "seed": (0, _NOT_NEGATIVE),  # of weights, batches and augmentation
    "num_steps": (1500, _AT_LEAST_ONE),
    "num_devices": (0, _NOT_NEGATIVE),  # 0: all; on a CPU, n makes n devices of it
    # How a step runs on several devices (docs/scaling.md).
    "parallelism": ("jit", _one_of("jit", "shard_map", "pmap")),
    # Steps whose loss or gradient is not finite change nothing; more of them in a row
    # than this end the run.
    "max_skipped_in_a_row": (0, _NOT_NEGATIVE),
    # "10:15" writes a trace of these steps into the work directory, for TensorBoard.
    "profile_steps": ("", _ANY),
    # Directory of compiled programs, which later runs use. "default": that of
    # JAX_COMPILATION_CACHE_DIR, or .jax_cache beside the work directory. "": none.
    "compilation_cache": ("default", _ANY),
    "log_every": (10, _AT_LEAST_ONE),  # steps
    # Steps between checkpoints, and between validations, if there are any.
    "eval_every": (300, _AT_LEAST_ONE),
    # Batches on which the report measures the distribution gaps; 0 leaves them out.
    "gap_batches": (32, _GAP_BATCHES),
    "data.dataset": ("synthetic_vireid/nir", _ANY),
    "data.data_dir": ("data", _ANY),
    "data.image_size": ((96, 48), _IMAGE_SIZE),
    "data.num_threads": (2, _THREADS),  # that decode
    # Leave out, and count, records for training that cannot be read, instead of
    # stopping. A damaged record of the test always stops the run.
    "data.skip_damaged": (False, _ANY),
    # Identities taken out of training for validation. 0: the validation split of the
    # data set; the real ones have none: train on everything, take the last step.
    "data.num_val_identities": (0, _NOT_NEGATIVE),
    "batch.num_identities": (16, _AT_LEAST_ONE),  # P
    "batch.num_images": (2, _AT_LEAST_ONE),  # K, of each modality
    # "balanced": P identities with K images in each of the M modalities; "agnostic": P
    # identities with M K images, whatever their modality; "natural": M P K images as
    # they come.
    "batch.sampler": ("balanced", _one_of(*SAMPLERS)),
    # Parts in which a batch is processed, one after the other, to save memory on an
    # accelerator. Each has its own statistics and pairs: it is P / parts identities.
    "batch.accumulation_steps": (1, _AT_LEAST_ONE),
    "augmentation.pad": (4, _NOT_NEGATIVE),  # pixels on each side before cropping
    "augmentation.flip": (0.5, _FRACTION),  # probability, as of the following
    "augmentation.erase": (0.0, _FRACTION),
    # Strength of brightness, contrast and saturation.
    "augmentation.jitter": (0.3, _NOT_NEGATIVE),
    # Of modalities with color (mbn_jax.modalities.COLOR): one channel in all three.
    "augmentation.exchange": (0.0, _FRACTION),
    "augmentation.gray": (0.0, _FRACTION),
    # Of the other modalities: one channel or gray.
    "augmentation.infrared_gray": (0.0, _FRACTION),
    # Of all modalities: fills channels differently.
    "augmentation.channel_erase": (0.0, _FRACTION),
    # Weights to start from. ImageNet's: a .safetensors file with torchvision's names,
    # hf:owner/name, or a folder of Keras's ResNet-50 for TensorFlow.js, with
    # model.stride_in_1x1. Or a folder of shared weights (mbn_jax.save_pretrained).
    "model.pretrained": ("", _ANY),
    "model.depth": (18, _one_of(*STAGES)),
    "model.variant": ("resnet", _one_of(*VARIANTS)),
    "model.stem": ("shared", _one_of(*STEMS)),  # "separate": one for each modality
    "model.non_local": ((0, 0, 0, 0), _NON_LOCAL),  # blocks at the end of each stage
    "model.pooling": ("average", _one_of(*POOLINGS)),  # "gem": generalized mean
    "model.neck_bias": (False, _ANY),
    "model.width": (0.25, _WIDTH),
    "model.norm": ("mbn", _one_of(*NORMS)),
    "model.mbn_at": (PLACES, _MBN_AT),  # where "mbn" is by modality; elsewhere: "bn"
    "model.share_affine": (True, _ANY),
    "model.last_stride": (1, _one_of(1, 2)),  # 2 is coarser and a little faster
    "model.stride_in_1x1": (False, _ANY),  # of bottlenecks; for Keras's weights
    "model.momentum": (0.9, _FRACTION),  # of the running statistics
    "model.dtype": ("float32", _one_of("float32", "bfloat16")),
    "model.remat": (False, _ANY),  # compute blocks twice and keep less between
    # Weights; a loss of weight 0 is not computed.
    "loss.identity": (1.0, _NOT_NEGATIVE),  # cross-entropy
    "loss.wrt": (1.0, _NOT_NEGATIVE),  # weighted regularized triplet, of AGW
    "loss.squared_wrt": (0.0, _NOT_NEGATIVE),  # the same of squared differences, of CAJ
    "loss.triplet": (0.0, _NOT_NEGATIVE),  # batch hard
    "loss.circle": (0.0, _NOT_NEGATIVE),
    "loss.hetero_center": (0.0, _NOT_NEGATIVE),
    "loss.hetero_center_triplet": (0.0, _NOT_NEGATIVE),
    "loss.label_smoothing": (0.1, _FRACTION),  # of "identity"
    "loss.margin": (0.3, _NOT_NEGATIVE),  # of "triplet" and "hetero_center_triplet"
    "loss.circle_margin": (0.25, _FRACTION),
    "loss.circle_scale": (64.0, _NOT_NEGATIVE),
    "optimizer.name": ("adamw", _one_of("sgd", "adamw")),
    "optimizer.learning_rate": (3e-3, _NOT_NEGATIVE),
    "optimizer.backbone_factor": (1.0, _NOT_NEGATIVE),  # times the learning rate
    "optimizer.momentum": (0.9, _FRACTION),  # of "sgd"
    "optimizer.nesterov": (True, _ANY),  # of "sgd"
    "optimizer.weight_decay": (1e-3, _NOT_NEGATIVE),
    "optimizer.schedule": ("cosine", _one_of("cosine", "step", "constant")),
    "optimizer.warmup_steps": (50, _NOT_NEGATIVE),
    "optimizer.decay_steps": ((750, 1100), _RISING),  # of "step"
    "optimizer.decay_factor": (0.1, _NOT_NEGATIVE),  # of "step"
}


def default_config() -> ConfigDict:
    """Returns the quick run's configuration, locked: an unknown key is an error."""
    defaults = {key: default for key, (default, _) in _KEYS.items()}
    return ConfigDict(unflatten_dict(defaults, sep=".")).lock()


def check(config: ConfigDict) -> None:
    """Refuses values that no run can use.

    Raises:
        InputError: names the first key that is wrong, its value and what was expected.
    """
    values = flatten_dict(config.to_dict(), sep=".")
    for key in sorted(values.keys() ^ _KEYS.keys()):
        if key in values:
            raise InputError(unknown(key))
        raise InputError(
            f"The configuration lacks {key!r}; start a configuration file from "
            "mbn_jax.training.config.default_config()."
        )
    for key, (default, (expected, holds)) in _KEYS.items():
        value = values[key]
        if other := _other_type(value, default):
            raise InputError(
                f"config.{key} is {value!r}, expected {other}, as for example "
                f"{default!r}."
            )
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
            "part would hold one identity, and losses of pairs would have no "
            "negatives; give half of it or less, or 0 to "
            f"{', '.join(_OF_PAIRS)} in config.loss."
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
    nearest = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
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
    for key in sorted(values.keys() ^ _KEYS.keys()):
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
