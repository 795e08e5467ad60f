"""One image, as a pure function of (seed, identity, camera, image).

As a command, it draws an overview: a few identities, each seen by every camera.

    python -m mbn_jax.data.synthetic_vireid.render --kind nir --output F.png
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mbn_jax.data.synthetic_vireid import scene
from mbn_jax.data.synthetic_vireid.config import (
    DEFAULT,
    Camera,
    Difficulty,
    config_from_name,
)
from mbn_jax.data.synthetic_vireid.figure import figure
from mbn_jax.data.synthetic_vireid.parts import (
    Label,
    Part,
    View,
    materials,
    print_patterns,
)
from mbn_jax.data.synthetic_vireid.person import (
    Identity,
    Material,
    Pose,
    Rng,
    draw_identity,
    draw_pose,
    dyed,
)

CANVAS = (256, 128)  # (height, width): twice a typical crop, reduced by area averaging
_PERSON, _IMAGE, _FOLDS = 1, 2, 3  # so that the streams of one seed never meet
# The strengths in config.py were chosen while looking at results on the people of
# edition 0. Edition 1 has other people in the same places, and nothing was changed
# after it had been looked at. A change here or there asks for a new data version.
_EDITION = 1
# Of the overview: pixels of an image, between images, and above them; and how many
# images of each camera it shows where the command does not say.
_TILE, _GAP, _MARGIN = (144, 72), 4, 22
_IMAGES = {"nir": 2, "thermal": 5, "three": 3}


@functools.lru_cache(maxsize=256)
def person(seed: int, identity: int) -> Identity:
    """The person behind an identity number."""
    return draw_identity(_rng(seed, _PERSON, identity))


def render(
    seed: int,
    identity: int,
    camera: Camera,
    image: int,
    difficulty: Difficulty = DEFAULT,
) -> np.ndarray:
    """Renders one image.

    Args:
        seed: of the whole data set.
        identity: number of the person, from 1.
        camera: who looks.
        image: number of the image of this person in this camera, from 1.
        difficulty: strength of what differs between the images of one person.

    Returns:
        (height, width, 3) uint8 RGB; the size varies with camera and image.
    """
    who = person(seed, identity)
    rng = image_rng(seed, identity, camera, image)
    pose, view = draw_moment(rng, who, camera, difficulty)
    labels, relief = paint(who, pose, view, _obstacle(rng, difficulty))
    table = scene.appearance(materials(who, _dull(rng)), camera)
    light = scene.draw_light(rng, difficulty)
    background = _background(rng, seed, camera, view, difficulty.clutter)
    if camera.sensor == "visible":
        background = background * _shadow(view, light)
    radiance = scene.expose(
        labels, relief, _creases(rng, seed), table, background, camera, light
    )
    height = round(camera.height * math.exp(rng.uniform(-0.15, 0.15)))
    size = (height, round(height / 2 * math.exp(rng.uniform(-0.06, 0.06))))
    return scene.develop(radiance, size, camera, light, difficulty, rng)


def image_rng(seed: int, identity: int, camera: Camera, image: int) -> Rng:
    """The source of everything that is particular to one image."""
    return _rng(seed, _IMAGE, identity, camera.number, image)


def draw_moment(
    rng: Rng, who: Identity, camera: Camera, difficulty: Difficulty
) -> tuple[Pose, View]:
    """How the person stands, and how the box frames it: the first draws of an image."""
    pose = draw_pose(rng, difficulty)
    return pose, _frame(rng, who, camera, pose, difficulty)


def paint(
    who: Identity, pose: Pose, view: View, obstacle: list[Part] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Paints the figure.

    Returns:
        (H, W) uint8 values of `Label`, and (H, W) uint8 relief, which grows toward the
        camera and is 0 where the background shows.
    """
    canvas = np.zeros((*CANVAS, 2), np.uint8)
    for part in sorted(figure(who, pose, view), key=lambda part: part.order):
        _fill(canvas, part)
    labels = np.ascontiguousarray(canvas[..., 0])
    print_patterns(labels, who, view)
    canvas[..., 0] = labels
    for part in obstacle or []:
        _fill(canvas, part)
    return np.ascontiguousarray(canvas[..., 0]), np.ascontiguousarray(canvas[..., 1])


def contact_sheet(
    cameras: Sequence[Camera], identities: Sequence[int], images: int, seed: int = 0
) -> np.ndarray:
    """Renders a table with a row per identity and ``images`` columns per camera."""
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
    """Draws the overview."""
    parser = argparse.ArgumentParser(
        description="Draws an overview of the synthetic data."
    )
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


def _fill(canvas: np.ndarray, part: Part) -> None:
    height = min(max(150 + 200 * part.depth, 60), 255)
    outline = np.round(16 * part.outline).astype(np.int32)
    cv2.fillPoly(canvas, [outline], (int(part.label), int(height)), shift=4)


def _rng(*words: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((_EDITION, *words)))


def _frame(
    rng: Rng, who: Identity, camera: Camera, pose: Pose, difficulty: Difficulty
) -> View:
    """The imperfect box of a person detector, as the view that fills the canvas."""
    follows = difficulty.crop_follows_person
    stature = follows * who.body.height + (1 - follows) * 1.71
    box = 1.13 * stature * math.exp(difficulty.crop_scale * rng.standard_normal())
    shift = difficulty.crop_shift * rng.standard_normal(2)
    column = CANVAS[1] * (0.5 + 2 * shift[0])
    row = CANVAS[0] * (0.95 + shift[1])
    elevation = math.radians(camera.elevation + rng.normal(0, 2))
    return View(pose.yaw, elevation, CANVAS[0] / box, (column, row))


def _background(
    rng: Rng, seed: int, camera: Camera, view: View, clutter: float
) -> np.ndarray:
    """A window of the place, its floor under the feet."""
    place = scene.draw_place(seed, camera.place)[camera.sensor]
    left = int(rng.integers(0, scene.COLUMNS - CANVAS[1]))
    feet = int(rng.uniform(scene.FLOOR_ROW + 30, scene.FLOOR_ROW + 130))
    top = min(max(feet - int(view.origin[1]), 0), scene.ROWS - CANVAS[0])
    window = place[top : top + CANVAS[0], left : left + CANVAS[1]]
    mean = window.mean(axis=(0, 1))
    return (mean + np.float32(clutter) * (window - mean)).astype(np.float32)


def _shadow(view: View, light: scene.Light) -> np.ndarray:
    """The soft shadow (H, W, 1) on the floor; it falls away from the light."""
    mask = np.full(CANVAS, 255, np.uint8)
    column = round(view.origin[0] - 22 * light.direction[0])
    center = (column, round(view.origin[1] - 3))
    cv2.ellipse(mask, center, (34, 8), 0, 0, 360, 110, -1)
    soft = cv2.GaussianBlur(mask, (15, 15), 4)
    return (soft.astype(np.float32) / 255)[..., None]


@functools.lru_cache(maxsize=4)
def _cloth(seed: int) -> np.ndarray:
    """A large sheet (512, 256) float32 of creases about 0, mostly slanting down."""
    rng = _rng(seed, _FOLDS)
    coarse = rng.standard_normal((50, 50)).astype(np.float32)
    fine = rng.standard_normal((128, 110)).astype(np.float32)
    sheet = 0.6 * cv2.resize(coarse, (256, 512), interpolation=cv2.INTER_CUBIC)
    sheet += 0.4 * cv2.resize(fine, (256, 512), interpolation=cv2.INTER_CUBIC)
    sheet /= 2.5 * sheet.std()
    sheet.setflags(write=False)
    return sheet


def _creases(rng: Rng, seed: int) -> np.ndarray:
    top, left = int(rng.integers(0, 256)), int(rng.integers(0, 128))
    return 0.5 * _cloth(seed)[top : top + CANVAS[0], left : left + CANVAS[1]]


def _dull(rng: Rng) -> Material:
    """The material of an obstacle: less colorful than clothes, as cool as the air."""
    material = dyed(rng, insulation=(0.9, 1.0))
    red, green, blue = (
        0.35 * c + 0.65 * sum(material.color) / 3 for c in material.color
    )
    return dataclasses.replace(material, color=(red, green, blue))


def _obstacle(rng: Rng, difficulty: Difficulty) -> list[Part]:
    """A table, a post or another thing between camera and person."""
    # Drawn always, so that the other properties of an image do not depend on it.
    present, kind, across, low = rng.random(4)
    if present >= difficulty.occlusion:
        return []
    height, width = CANVAS
    if kind < 0.5:  # something low: a desk, a bench, a hedge
        left, right = width * (across - 0.9), width * (across + 0.6)
        top, bottom = height * (0.72 + 0.15 * low), height
    else:  # something narrow: a post, a tree, the edge of a door
        left = width * (0.05 + 0.75 * across)
        left, right = left, left + width * (0.08 + 0.1 * low)
        top, bottom = 0, height
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [Part(np.array(corners, np.float64), Label.OBSTACLE, 1.0, 0.4)]


if __name__ == "__main__":
    main()
