"""Draws an overview of the data: a few identities, each seen by every camera.

python -m mbn_jax.data.synthetic_vireid.contact_sheet --kind nir --output F.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mbn_jax.data.synthetic_vireid.config import Camera, config_from_name
from mbn_jax.data.synthetic_vireid.render import render

_TILE = (144, 72)
_GAP, _MARGIN = 4, 22
_IMAGES = {"nir": 2, "thermal": 5, "three": 3}  # of each camera, about as wide


def contact_sheet(
    cameras: Sequence[Camera], identities: Sequence[int], images: int, seed: int = 0
) -> np.ndarray:
    """Renders a table with a row per identity and `images` columns per camera.

    Returns:
      (H, W, 3) uint8 RGB.
    """
    height, width = _TILE[0] + _GAP, _TILE[1] + _GAP
    gap = 10  # between cameras
    columns = len(cameras) * (images * width + gap)
    shape = (_MARGIN + len(identities) * height, columns, 3)
    sheet = np.full(shape, 255, np.uint8)
    for column, camera in enumerate(cameras):
        start = column * (images * width + gap)
        kind = {"near_infrared": "near-infrared"}.get(camera.sensor, camera.sensor)
        text = f"{camera.number}: {kind}"
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(sheet, text, (start, 15), font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        for row, identity in enumerate(identities):
            for image in range(images):
                tile = render(seed, identity, camera, image + 1)
                tile = cv2.resize(tile, _TILE[::-1], interpolation=cv2.INTER_CUBIC)
                top, left = _MARGIN + row * height, start + image * width
                sheet[top : top + _TILE[0], left : left + _TILE[1]] = tile
    return sheet


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kind", choices=list(_IMAGES), default="nir")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--identities", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--images", type=int, help="images per camera")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sheet = contact_sheet(
        config_from_name(arguments.kind).cameras,
        arguments.identities,
        arguments.images or _IMAGES[arguments.kind],
        arguments.seed,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(arguments.output), sheet[..., ::-1])


if __name__ == "__main__":
    main()
