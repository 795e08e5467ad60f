r"""Measures the two distribution gaps of ImageNet weights on pictures of persons.

    python experiments/imagenet_gap.py --pretrained=WEIGHTS \
        --visible=crops/visible --infrared=crops/infrared --output=runs/imagenet_gap

takes a ResNet-50 as ImageNet left it, and measures on your crops how far the modalities
lie apart in it: with BN, with BN whose statistics are re-estimated, and with MBN. The
two folders hold crops of the same persons under the same names, such as
experiments/crop_pairs.py makes. WEIGHTS is what config.model.pretrained may be: a file,
a folder, or hf:timm/resnet50.tv_in1k. What is written: see experiments/gap.py.
"""

import sys

from absl import app, flags

from mbn_jax.analysis.gap_charts import as_markdown, write_gaps
from mbn_jax.analysis.imagenet_gap import measure_imagenet
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable
from mbn_jax.models.reid import ReID
from mbn_jax.training.config import parse_flags

_PRETRAINED = flags.DEFINE_string("pretrained", None, "The weights.", required=True)
_STRIDE_IN_1X1 = flags.DEFINE_bool(
    "stride_in_1x1", False, "As model.stride_in_1x1 of a run; Keras's weights need it."
)
_VISIBLE = flags.DEFINE_string("visible", None, "Folder of crops.", required=True)
_INFRARED = flags.DEFINE_string("infrared", None, "Folder of crops.", required=True)
_OUTPUT = flags.DEFINE_string("output", "gaps", "Folder to write to, made if need be.")
_TITLE = flags.DEFINE_string("title", "The gaps of ImageNet weights", "Of the figure.")
_NUM_BATCHES = flags.DEFINE_integer("num_batches", 16, "Of each kind.", lower_bound=2)


def main(argv: list[str]) -> None:
    """Measures and writes."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; folders follow --visible= and so.")
    try:
        check_writable(_OUTPUT.value)
        measured = measure_imagenet(
            _PRETRAINED.value,
            _VISIBLE.value,
            _INFRARED.value,
            num_batches=_NUM_BATCHES.value,
            model=ReID(1, depth=50, stride_in_1x1=_STRIDE_IN_1X1.value),
        )
        write_gaps(measured, _OUTPUT.value, _TITLE.value)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(as_markdown(measured))
    print(f"{_OUTPUT.value}: gap.png, gap.md and gap.csv")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
