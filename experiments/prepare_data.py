"""Checks a data set that its authors gave you, and converts it for training.

  python experiments/prepare_data.py --dataset=sysu_mm01 --manual_dir=SYSU-MM01

reads the folder that was unpacked, says everything that is wrong with it, and, if
nothing is, writes data/sysu_mm01. The data sets are sysu_mm01, regdb (all ten splits),
regdb/split1 to regdb/split10, and llcm; docs/datasets.md says where to ask for them and
how their folders look.

  python experiments/prepare_data.py --dataset=regdb --manual_dir=RegDB --check

only checks, and exits with 1 if something has to be mended.
"""

import sys

from absl import app, flags, logging

from mbn_jax.data.preparation import prepare_data
from mbn_jax.errors import InputError
from mbn_jax.training.config import parse_flags

_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "sysu_mm01, regdb, regdb/split1 to regdb/split10, or llcm.",
    required=True,
)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "The folder of the data set, unpacked.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data", "Directory of all prepared data sets."
)
_CHECK = flags.DEFINE_bool("check", False, "Stop after the checks.")


def main(argv: list[str]) -> None:
    """Prepares a data set."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; the folder follows --manual_dir=.")
    logging.set_verbosity(logging.WARNING)
    try:
        prepare_data(
            _DATASET.value,
            _MANUAL_DIR.value,
            _DATA_DIR.value,
            check_only=_CHECK.value,
        )
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: start again with the same command.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
