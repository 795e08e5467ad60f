r"""Evaluates a trained model, or features of any framework, by a protocol.

  python experiments/evaluate.py --workdir runs/quick
  python experiments/evaluate.py --workdir 'runs/regdb_{split}'
  python experiments/evaluate.py --features F.npz --protocol sysu_mm01 --search indoor

One call, one protocol: the usual one of the data set where no option says otherwise
(docs/protocols.md). With {split} in the work directory it is the mean over RegDB's ten
splits. The npz holds `features` (N, D), `identity`, `camera`, `modality` (0 visible, 1
infrared) and `name` (path in the data set's tree), each (N,) (docs/feature-files.md).
"""

import sys

from absl import app, flags, logging

from mbn_jax.errors import InputError
from mbn_jax.evaluation import flags as protocol_flags
from mbn_jax.evaluation.distances import DISTANCE_TITLES
from mbn_jax.evaluation.evaluation import evaluate_file, format_evaluation
from mbn_jax.evaluation.flags import FAMILIES
from mbn_jax.training.config import parse_flags
from mbn_jax.training.evaluation import Network, evaluate_workdir, save_test_features

flags.adopt_module_key_flags(protocol_flags)  # for --help
flags.DEFINE_string("workdir", None, "Work directory of a trained model.")
flags.DEFINE_string("features", None, "npz of features, in place of --workdir.")
flags.DEFINE_enum("protocol", None, FAMILIES, "Whose rules apply to --features.")
_DISTANCES = list(DISTANCE_TITLES)
flags.DEFINE_enum("distance", "cosine", _DISTANCES, "k_reciprocal means re-ranked.")
flags.DEFINE_string("checkpoint", "last", "Of --workdir: last, best, or a step.")
flags.DEFINE_bool(
    "flip_average", False, "Of --workdir: means of the features of both mirror images."
)
flags.DEFINE_string("data_dir", None, "Of --workdir: prepared data, if they moved.")
flags.DEFINE_string(
    "save_features", None, "Of --workdir: npz to write, in place of evaluating."
)
flags.DEFINE_bool("json", False, "Print JSON instead of the table.")
_OF_WORKDIR = ("checkpoint", "flip_average", "data_dir", "save_features")


def main(argv: list[str]) -> None:
    """Evaluates and prints."""
    if argv[1:]:
        sys.exit(f"error: unexpected argument {argv[1]!r}, expected --flag=value")
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    options = protocol_flags.protocol_options()
    try:
        if (given.workdir is None) == (given.features is None):
            raise InputError("Give either --workdir or --features.")
        if given.workdir is None:
            protocol_flags.refuse(_OF_WORKDIR, "--features")
            if given.protocol is None:
                raise InputError(f"--features needs --protocol: {', '.join(FAMILIES)}.")
            result = evaluate_file(
                given.features, given.protocol, options, given.distance
            )
        else:
            protocol_flags.refuse(["protocol"], "--workdir")
            network = Network(given.checkpoint, given.flip_average, given.data_dir)
            if given.save_features is not None:
                protocol_flags.refuse([*options, "distance", "json"], "--save_features")
                print(save_test_features(given.workdir, network, given.save_features))
                return
            result = evaluate_workdir(given.workdir, network, options, given.distance)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(format_evaluation(result, as_json=given.json))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
