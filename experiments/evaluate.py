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
from mbn_jax.evaluation.evaluation import evaluate_file, format_evaluation
from mbn_jax.training.config import parse_flags
from mbn_jax.training.evaluation import Network, evaluate_workdir, save_test_features

_DIRECTIONS = ["visible_to_infrared", "infrared_to_visible"]
_FAMILIES = ["sysu_mm01", "regdb", "llcm", "synthetic_vireid"]

flags.DEFINE_string("workdir", None, "Work directory of a trained model.")
flags.DEFINE_string("features", None, "npz of features, instead of --workdir.")
flags.DEFINE_enum("protocol", None, _FAMILIES, "Of --features.")
flags.DEFINE_enum("search", None, ["all", "indoor"], "SYSU-MM01; all by default.")
flags.DEFINE_integer("shots", None, "SYSU-MM01: of an identity in a camera; 1.")
flags.DEFINE_enum("gallery", None, ["agw", "official"], "SYSU-MM01; agw by default.")
flags.DEFINE_string("rand_perm_cam", None, "rand_perm_cam.mat, for --gallery=official.")
flags.DEFINE_enum("direction", None, _DIRECTIONS, "The first one by default, but for "
                  "the embedded data sets the second.")  # fmt: skip
flags.DEFINE_enum("variant", None, ["plain", "swapped"], "LLCM; plain by default.")
flags.DEFINE_enum("distance", "cosine", ["cosine", "euclidean"], "Of the features.")
flags.DEFINE_string("checkpoint", "last", "last, best, or a step; of --workdir.")
flags.DEFINE_bool("flip_average", False, "Mean with the mirror image; of --workdir.")
flags.DEFINE_string("data_dir", None, "Prepared data; where the run found them.")
flags.DEFINE_string("save_features", None, "npz to write, instead of evaluating.")
flags.DEFINE_bool("json", False, "JSON on standard output instead of the table.")
_OF_WORKDIR = ("checkpoint", "flip_average", "data_dir", "save_features")
_OPTIONS = ("search", "shots", "gallery", "rand_perm_cam", "direction", "variant")


def main(argv: list[str]) -> None:
    """Evaluates and prints."""
    if argv[1:]:
        sys.exit(f"error: unexpected argument {argv[1]!r}, expected --flag=value")
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    options = {name: given[name].value for name in _OPTIONS if given[name].present}
    try:
        if (given.workdir is None) == (given.features is None):
            raise InputError("Give either --workdir or --features.")
        for name in ("protocol",) if given.features is None else _OF_WORKDIR:
            if given[name].present:
                other = "--workdir" if given.features is None else "--features"
                raise InputError(f"--{name} does not go with {other}: leave it out.")
        network = Network(given.checkpoint, given.flip_average, given.data_dir)
        if given.save_features is not None:
            print(save_test_features(given.workdir, network, given.save_features))
            return
        if given.workdir is not None:
            result = evaluate_workdir(given.workdir, network, options, given.distance)
        elif given.protocol is None:
            raise InputError(f"--features needs --protocol: {', '.join(_FAMILIES)}.")
        else:
            result = evaluate_file(
                given.features, given.protocol, options, given.distance
            )
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(format_evaluation(result, as_json=given.json))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
