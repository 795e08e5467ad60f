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
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")


def main(argv: list[str]) -> None:
    """Detects and writes."""
    sources = [Path(_VISIBLE.value), Path(_INFRARED.value)]
    targets = [Path(_OUTPUT.value, kind) for kind in ("visible", "infrared")]
    detector, names, number = make_detector(), find_pairs(sources, targets), 0
    try:
        for target in targets:
            target.mkdir(parents=True, exist_ok=True)
        for name in names:
            pair = read_pair(name, sources)
            boxes = find_boxes(pair[1], detector, _THRESHOLD.value)
            write_crops(Path(name).stem, pair, boxes, targets)
            number += len(boxes)
    except OSError as error:
        sys.exit(
            f"error: {_OUTPUT.value} cannot be written to ({error.strerror}); give an "
            "--output that can."
        )
    print(
        f"{_OUTPUT.value}: {number} pairs of crops from {len(names)} pairs of pictures"
    )


def make_detector() -> Any:
    """Finds upright persons."""
    if not hasattr(cv2, "HOGDescriptor"):
        sys.exit(
            f"error: OpenCV {cv2.__version__} has no HOG detector; run this in an "
            "environment with pip install 'opencv-python-headless<5' absl-py."
        )
    hog: Any = cv2  # OpenCV 5 has neither of the two names
    detector = hog.HOGDescriptor()
    detector.setSVMDetector(hog.HOGDescriptor_getDefaultPeopleDetector())
    return detector


def find_pairs(sources: list[Path], targets: list[Path]) -> list[str]:
    """Names of the pictures that both sources have; no crop may be written there."""
    for target in targets:
        if target.resolve() in [source.resolve() for source in sources]:
            sys.exit(
                f"error: the crops would lie among the pictures of {target}; give "
                "another --output."
            )
    visible, infrared = ({path.name for path in s.glob("*")} for s in sources)
    names = [n for n in visible & infrared if Path(n).suffix.lower() in _SUFFIXES]
    if not names:
        sys.exit(
            f"error: no picture ({', '.join(_SUFFIXES)}) of {sources[0]} has the name "
            f"of one in {sources[1]}; give two folders with the same names."
        )
    return sorted(names)


def read_pair(name: str, sources: list[Path]) -> list[Any]:
    """The visible and the infrared picture, (H, W, 3) uint8 each."""
    pair: list[Any] = [cv2.imread(str(source / name)) for source in sources]
    if any(picture is None for picture in pair) or pair[0].shape != pair[1].shape:
        sys.exit(
            f"error: {name} is not a picture of one size in {sources[0]} and in "
            f"{sources[1]}; mend it or take it out."
        )
    return pair


def find_boxes(picture: Any, detector: Any, threshold: float) -> dict[int, Any]:
    """Rows and columns of the persons, by their numbers from left to right."""
    boxes, scores = detector.detectMultiScale(
        picture, winStride=(8, 8), padding=(16, 16), scale=1.05
    )
    # The detector's threads end in any order, but a crop is to have one name, whatever
    # the threshold is.
    found = enumerate(sorted(zip(map(tuple, boxes), scores, strict=True)))
    return {
        i: (slice(max(y, 0), y + height), slice(max(x, 0), x + width))
        for i, ((x, y, width, height), score) in found
        if score >= threshold
    }


def write_crops(
    stem: str, pair: list[Any], boxes: dict[int, Any], targets: list[Path]
) -> None:
    """Writes what lies in the boxes of both pictures under the same names."""
    for i, box in boxes.items():
        for picture, target in zip(pair, targets, strict=True):
            # cv2.imwrite would not say why it cannot write.
            png = cv2.imencode(".png", picture[box])[1].tobytes()
            (target / f"{stem}_{i}.png").write_bytes(png)


if __name__ == "__main__":
    app.run(main)
