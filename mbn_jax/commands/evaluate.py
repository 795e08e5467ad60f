r"""Evaluates a trained model, or features of any framework, by a protocol.

  python -m mbn_jax evaluate --workdir runs/quick
  python -m mbn_jax evaluate --workdir 'runs/regdb_{split}'
  python -m mbn_jax evaluate --features F.npz --protocol sysu_mm01 --search indoor
  python -m mbn_jax evaluate --features F.npz --protocol my_cameras \
      --direction thermal_to_visible

One call evaluates one protocol, the usual one of the data set unless options choose
another (docs/protocols.md). With {split} in the work directory, the result is the mean
over the splits, each with a network of its own. The npz holds `features` (N, D),
`identity`, `camera`, `modality` (0 visible, 1 infrared, unless `modalities` names
others) and `name` (path in the data set's folder), each (N,) (docs/feature-files.md).
"""

import itertools
from collections.abc import Iterable
from typing import Any

from absl import flags, logging

from mbn_jax.commands import shared_flags
from mbn_jax.data.sources import (
    DIRECTION,
    MODULES,
    Option,
    all_sources,
    protocol_of,
    source_of,
)
from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import DISTANCE_TITLES
from mbn_jax.evaluation.results import evaluate_file
from mbn_jax.evaluation.table import format_evaluation
from mbn_jax.training.trained_network import (
    Network,
    evaluate_workdir,
    save_test_features,
)

flags.DEFINE_string("workdir", None, "Work directory of a trained model.")
flags.DEFINE_string("features", None, "npz of features, in place of --workdir.")
flags.DEFINE_string(
    "protocol",
    None,
    f"Whose rules apply to --features: {', '.join(MODULES)}; or any other name, with "
    "--direction.",
)
_DISTANCES = list(DISTANCE_TITLES)
flags.DEFINE_enum("distance", "cosine", _DISTANCES, "k_reciprocal means re-ranked.")
flags.DEFINE_string("checkpoint", "last", "Of --workdir: last, best, or a step.")
flags.DEFINE_bool(
    "flip_average", False, "Of --workdir: means of the features of both mirror images."
)
shared_flags.define_data_dir()
flags.DEFINE_string(
    "save_features", None, "Of --workdir: npz to write, in place of evaluating."
)
flags.DEFINE_bool("json", False, "Print JSON instead of the table.")
_OF_WORKDIR = ("checkpoint", "flip_average", "data_dir", "save_features")


def define_protocol_flags() -> list[flags.FlagHolder[Any]]:
    """Defines a flag for each option of the protocols; several may share one."""
    of_name: dict[str, list[tuple[str, Option]]] = {
        DIRECTION.name: [("any other data", DIRECTION)]
    }
    for source in all_sources():
        for option in source.options:
            of_name.setdefault(option.name, []).append((source.name, option))
    defined: list[flags.FlagHolder[Any]] = []
    for name, owners in of_name.items():
        text = " ".join(f"{owner}: {option.help}" for owner, option in owners)
        kinds = [option.kind for _, option in owners]
        if all(isinstance(kind, tuple) for kind in kinds):
            choices = [*dict.fromkeys(itertools.chain(*kinds))]
            defined.append(flags.DEFINE_enum(name, None, choices, text))
        else:
            define = flags.DEFINE_integer if kinds == [int] else flags.DEFINE_string
            defined.append(define(name, None, text))
    return defined


_OF_PROTOCOL = define_protocol_flags()


def refuse(names: Iterable[str], other: str) -> None:
    """Raises `InputError` for flags that are given and do not go with another."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} does not go with {other}: leave it out.")


def main() -> None:
    """Evaluates and prints."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    options = {flag.name: flag.value for flag in _OF_PROTOCOL if flag.present}
    if (given.workdir is None) == (given.features is None):
        raise InputError("Give either --workdir or --features.")
    if given.workdir is None:
        refuse(_OF_WORKDIR, "--features")
        if given.protocol is None:
            raise InputError(
                f"--features needs --protocol: {', '.join(MODULES)}, or any other "
                "name with --direction."
            )
        source = source_of(given.protocol)
        if source is None and DIRECTION.name not in options:
            raise InputError(
                f"{given.protocol!r} has no protocol of its own ("
                f"{', '.join(MODULES)} are known): give the direction, for example "
                "--direction=infrared_to_visible."
            )
        result = evaluate_file(
            given.features,
            lambda records: protocol_of(given.protocol, records.modalities, options),
            labels=source.labels if source else None,
            distance=given.distance,
        )
    else:
        refuse(["protocol"], "--workdir")
        network = Network(given.checkpoint, given.flip_average, given.data_dir)
        if given.save_features is not None:
            refuse([*options, "distance", "json"], "--save_features")
            print(save_test_features(given.workdir, network, given.save_features))
            return
        result = evaluate_workdir(given.workdir, network, options, given.distance)
    print(format_evaluation(result, as_json=given.json))
