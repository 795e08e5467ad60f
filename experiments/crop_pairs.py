r"""Cuts the persons out of aligned pairs of a visible and an infrared picture.

    pip install 'opencv-python-headless<5' absl-py
    python experiments/crop_pairs.py --visible=LLVIP/visible --infrared=LLVIP/infrared \
        --output=crops

looks for upright persons in every infrared picture, where they stand out at night, and
writes what lies in their boxes there and in the visible picture of the same name:
crops/visible and crops/infrared hold crops of the same names. The detector is that of
Dalal and Triggs (CVPR 2005), which OpenCV has up to version 4, so that this script
wants an environment of its own; among its crops are always a few things that are no
person. Pictures of the LLVIP data set (Jia et al., ICCV Workshops 2021) are for
non-commercial use, and not for identifying anybody.
"""

import sys
from pathlib import Path
from typing import Any

import cv2
from absl import app, flags

_VISIBLE = flags.DEFINE_string("visible", None, "Folder of pictures.", required=True)
_INFRARED = flags.DEFINE_string("infrared", None, "The same scenes.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_THRESHOLD = flags.DEFINE_float("threshold", 1.0, "Least score of a detection.")


def main(argv: list[str]) -> None:
    """Detects and writes."""
    if not hasattr(cv2, "HOGDescriptor"):
        sys.exit(
            f"error: OpenCV {cv2.__version__} has no HOG detector; run this in an "
            "environment with pip install 'opencv-python-headless<5' absl-py."
        )
    visible, infrared, output = map(
        Path, (_VISIBLE.value, _INFRARED.value, _OUTPUT.value)
    )
    names = {path.name for path in visible.glob("*")}
    names &= {path.name for path in infrared.glob("*")}
    if not names:
        sys.exit(f"error: no file of {visible} has the name of one in {infrared}.")
    for name in ("visible", "infrared"):
        (output / name).mkdir(parents=True, exist_ok=True)
    hog: Any = cv2  # OpenCV 5 has neither of the two names
    detector = hog.HOGDescriptor()
    detector.setSVMDetector(hog.HOGDescriptor_getDefaultPeopleDetector())
    number = 0
    for name in sorted(names):
        pair: list[Any] = [
            cv2.imread(str(folder / name)) for folder in (visible, infrared)
        ]
        if any(image is None for image in pair) or pair[0].shape != pair[1].shape:
            sys.exit(f"error: {name} is not a pair of pictures of the same size.")
        boxes, scores = detector.detectMultiScale(
            pair[1], winStride=(8, 8), padding=(16, 16), scale=1.05
        )
        for i, ((x, y, width, height), score) in enumerate(
            zip(boxes, scores, strict=True)
        ):
            if score < _THRESHOLD.value:
                continue
            rows, columns = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
            for folder, image in zip(("visible", "infrared"), pair, strict=True):
                crop = output / folder / f"{Path(name).stem}_{i}.png"
                cv2.imwrite(str(crop), image[rows, columns])
            number += 1
    print(f"{output}: {number} pairs of crops from {len(names)} pairs of pictures")


if __name__ == "__main__":
    app.run(main)
