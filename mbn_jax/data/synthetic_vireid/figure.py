"""A posed person as a list of flat parts, painted from back to front.

A part knows of which material it is by a label; what the label looks like is the
business of the sensor. So the same figure serves every modality, and a pattern shows
only to the sensors that can tell its two dyes apart.
"""

import dataclasses
import enum

import numpy as np

from mbn_jax.data.synthetic_vireid.geometry import View, capsule, ellipse, loft
from mbn_jax.data.synthetic_vireid.identity import Identity, Material
from mbn_jax.data.synthetic_vireid.pose import Pose, Skeleton


class Label(enum.IntEnum):
    """What a pixel shows. A print follows its ground: pattern.py relies on it."""

    BACKGROUND = 0
    SKIN = 1
    HAIR = 2
    HAT = 3
    UPPER = 4
    UPPER_PRINT = 5
    LOWER = 6
    LOWER_PRINT = 7
    INNER = 8
    SHOES = 9
    BAG = 10
    STRAP = 11
    OBSTACLE = 12


def materials(identity: Identity, obstacle: Material) -> dict[Label, Material]:
    """The material of every label but the background."""
    upper, lower = identity.upper, identity.lower
    return {
        Label.SKIN: identity.body.skin,
        Label.HAIR: identity.hair.material,
        Label.HAT: identity.hair.hat,
        Label.UPPER: upper.fabric.ground,
        Label.UPPER_PRINT: upper.fabric.print,
        Label.LOWER: lower.fabric.ground,
        Label.LOWER_PRINT: lower.fabric.print,
        Label.INNER: upper.inner or upper.fabric.ground,
        Label.SHOES: identity.shoes.material,
        Label.BAG: identity.bag.body,
        Label.STRAP: identity.bag.strap,
        Label.OBSTACLE: obstacle,
    }


@dataclasses.dataclass(frozen=True)
class Part:
    """A polygon of one material.

    Attributes:
      outline: (n, 2) float, canvas column and row.
      label: its material.
      order: parts are painted in ascending order.
      depth: metres towards the camera, for the shading only.
    """

    outline: np.ndarray
    label: Label
    order: float
    depth: float


# Painting order of what does not simply follow from the depth. Legs and feet stay
# below the garments of the trunk, whichever of them is nearer to the camera.
_LEGS, _LOWER, _NECK, _TRUNK, _FRONT = 0.0, 0.010, 0.018, 0.020, 0.022
_NEAR_ARM, _HEAD = 0.03, 0.026


def body_parts(identity: Identity, joints: Skeleton, pose: Pose, view: View):
    """The parts of body and garments; hair, hats and bags are in accessories.py.

    Returns:
      A list of `Part`, in no order.
    """
    parts: list[Part] = []
    for side in (0, 1):
        parts += _leg(identity, joints, view, side)
        parts += _arm(identity, joints, view, side)
    parts += _lower(identity, joints, pose, view)
    parts += _trunk(identity, joints, pose, view)
    body = identity.body
    neck_top = joints.head - np.array([0.0, 0.4 * body.head, 0.0])
    neck = 0.033 * body.height * body.girth**0.5
    parts.append(
        Part(capsule(view, joints.neck, neck_top, (neck, neck)), Label.SKIN, _NECK, 0.0)
    )
    face = ellipse(view, joints.head, (0.74 * body.head, body.head))
    parts.append(Part(face, Label.SKIN, _HEAD, 0.05))
    return parts


def trunk_half_axes(identity: Identity, height: float) -> tuple[float, float]:
    """Half axes (lateral, sagittal) of the bare trunk `height` metres over ground."""
    body = identity.body
    depth = 0.062 * body.height * body.girth
    levels = np.array([0.40, 0.50, 0.60, 0.72, 0.80, 0.84]) * body.height
    waist = 0.85 * min(body.hip, body.shoulder) * body.girth**0.7
    lateral = [
        body.hip * body.girth**0.5 * 1.02,
        body.hip * body.girth**0.5 * 1.05,
        waist,
        0.95 * body.shoulder * body.girth**0.4,
        1.03 * body.shoulder,
        0.45 * body.shoulder,
    ]
    sagittal = [depth, 1.05 * depth, depth * body.girth**0.7, 1.1 * depth, depth]
    sagittal.append(0.5 * depth)
    return (
        float(np.interp(height, levels, lateral)),
        float(np.interp(height, levels, sagittal)),
    )


def _leg(identity: Identity, joints: Skeleton, view: View, side: int) -> list[Part]:
    body, lower, shoes = identity.body, identity.lower, identity.shoes
    hip, knee, ankle = joints.hips[side], joints.knees[side], joints.ankles[side]
    toe = joints.toes[side]
    unit = body.height * body.girth**0.8
    radii = (0.05 * unit, 0.033 * unit, 0.021 * unit)
    depth = float(view.project(knee)[2])
    order = _LEGS + 0.02 * depth

    def part(a, b, radii, label, above):
        # `above` lifts a garment over what it covers, within the same leg.
        outline = capsule(view, a, b, radii)
        return Part(outline, label, order + 1e-4 * above, depth)

    parts = [
        part(hip, knee, radii[:2], Label.SKIN, 0),
        part(knee, ankle, radii[1:], Label.SKIN, 0),
        part(ankle, toe, (0.026 * body.height, 0.019 * body.height), Label.SHOES, 1),
    ]
    if shoes.shaft > 0:
        top = ankle + shoes.shaft * (knee - ankle)
        shaft = (0.033 * unit + 0.005, 0.028 * unit)
        parts.append(part(top, ankle, shaft, Label.SHOES, 5))
    if not lower.skirt:
        ease = lower.looseness
        thigh_end, shin_end = _along((hip, knee, ankle), lower.length)
        wide = (radii[0] + 0.3 * ease, radii[1] + 0.004 + 0.7 * ease)
        parts.append(part(hip, thigh_end, wide, Label.LOWER, 3))
        if lower.length > 0.5:
            cuff = (wide[1], radii[2] + 0.006 + ease)
            parts.append(part(knee, shin_end, cuff, Label.LOWER, 3))
        if lower.fabric.pattern == "side_stripe":
            parts += _side_stripe(
                (hip, thigh_end, shin_end), wide, view, side, order + 4e-4
            )
    return parts


def _side_stripe(joints, radii, view, side, order) -> list[Part]:
    """A band down the outer side of a trouser leg, where the camera sees that side."""
    outward = np.array([-1.0 if side == 0 else 1.0, 0.0, 0.0])
    top, knee, end = (
        joint + 0.85 * radius * outward
        for joint, radius in zip(joints, (radii[0], *radii[1:], radii[1]), strict=True)
    )
    seen = float(view.project(outward)[2]) > -0.35
    width = (0.022, 0.022)
    return [
        Part(capsule(view, a, b, width), Label.LOWER_PRINT, order, 0.02)
        for a, b in ((top, knee), (knee, end))
        if seen
    ]


def _arm(identity: Identity, joints: Skeleton, view: View, side: int) -> list[Part]:
    body, upper = identity.body, identity.upper
    shoulder, elbow, hand = (
        joints.shoulders[side],
        joints.elbows[side],
        joints.hands[side],
    )
    unit = body.height * body.girth**0.7
    radii = (0.029 * unit, 0.023 * unit, 0.016 * unit)
    depth = float(view.project(elbow)[2])
    order = depth + _NEAR_ARM if depth > -0.06 else depth - 0.2

    def part(a, b, radii, label, above):
        outline = capsule(view, a, b, radii)
        return Part(outline, label, order + 1e-4 * above, depth)

    palm = hand + 0.25 * (hand - elbow)
    parts = [
        part(shoulder, elbow, radii[:2], Label.SKIN, 0),
        part(elbow, hand, radii[1:], Label.SKIN, 0),
        part(hand, palm, (radii[2], 1.2 * radii[2]), Label.SKIN, 0),
    ]
    if upper.sleeve > 0:
        ease = 0.006 + 0.6 * upper.looseness
        upper_end, fore_end = _along((shoulder, elbow, hand), upper.sleeve)
        wide = (radii[0] + ease, radii[1] + ease, radii[2] + 0.004 + ease)
        parts.append(part(shoulder, upper_end, wide[:2], Label.UPPER, 2))
        if upper.sleeve > 0.5:
            parts.append(part(elbow, fore_end, wide[1:], Label.UPPER, 2))
    return parts


def _along(chain, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a garment ends on the first and on the second half of a limb."""
    first = chain[0] + min(2 * fraction, 1.0) * (chain[1] - chain[0])
    second = chain[1] + max(2 * fraction - 1.0, 0.0) * (chain[2] - chain[1])
    return first, second


def _lower(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> list[Part]:
    """The part of trousers or skirt round the pelvis."""
    body, lower = identity.body, identity.lower
    heights = [0.60 * body.height, 0.53 * body.height]
    if lower.skirt:
        heights.append((0.5 - 0.44 * lower.length) * body.height)
    else:
        heights.append(0.46 * body.height)
    levels = [
        _level(identity, joints, h, 0.004 + 0.3 * lower.looseness) for h in heights
    ]
    if lower.skirt:
        flare = (0.02 + 1.6 * lower.looseness) * lower.length
        levels[-1] = _hem(levels[-1], joints, pose, flare)
    return [Part(loft(view, levels, sag=0.012), Label.LOWER, _LOWER, 0.01)]


def _trunk(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> list[Part]:
    body, upper = identity.body, identity.upper
    ease = 0.006 + upper.looseness
    hem = upper.hem * body.height
    heights = [0.845, 0.825, 0.80, 0.72, 0.64, 0.56, 0.50, 0.42]
    heights = [h * body.height for h in heights if h > upper.hem + 0.02] + [hem]
    levels = [_level(identity, joints, h, ease) for h in heights]
    if upper.hem < 0.45:
        levels[-1] = _hem(levels[-1], joints, pose, 0.03)
    parts = [Part(loft(view, levels, sag=0.012), Label.UPPER, _TRUNK, 0.02)]
    facing = float(np.cos(view.yaw))
    if upper.inner is not None and facing > 0.25:
        parts.append(_front_panel(levels, view, 0.3, Label.INNER))
    elif upper.fabric.pattern == "logo" and abs(facing) > 0.25:
        # A large print, on the chest and on the back alike.
        front = 1.0 if facing > 0 else -1.0
        chest = [_level(identity, joints, h * body.height, ease) for h in (0.77, 0.66)]
        parts.append(_front_panel(chest, view, 0.62, Label.UPPER_PRINT, front))
    if upper.hood:
        back = joints.neck + np.array([0.0, 0.0, -0.06 * body.height])
        half_axes = (0.075 * body.height, 0.05 * body.height)
        depth = float(view.project(back)[2])
        order = _HEAD + 1e-3 if depth > -0.05 else _NECK - 1e-3
        parts.append(Part(ellipse(view, back, half_axes), Label.UPPER, order, depth))
    return parts


def _level(identity: Identity, joints: Skeleton, height: float, ease: float):
    """A cross-section of the trunk, `ease` metres off the body."""
    lateral, sagittal = trunk_half_axes(identity, height)
    return joints.spine(height), lateral + ease, sagittal + ease


def _hem(level, joints: Skeleton, pose: Pose, flare: float):
    """A cross-section below the hip: the legs within it spread it while walking."""
    centre, lateral, sagittal = level
    drop = max(joints.pelvis[1] - centre[1], 0.0)
    return centre, lateral + flare, sagittal + flare + 0.8 * drop * np.sin(pose.stride)


def _front_panel(
    levels, view: View, share: float, label: Label, front: float = 1.0
) -> Part:
    """A band `share` as wide as the trunk on its front (1) or back (-1)."""
    left, right = [], []
    for centre, lateral, sagittal in levels:
        forward = np.array([0.0, 0.0, 0.9 * front * sagittal])
        half = np.array([share * lateral, 0.0, 0.0])
        left.append(centre - half + forward)
        right.append(centre + half + forward)
    outline = view.project(np.array(left + right[::-1]))[:, :2]
    return Part(outline, label, _FRONT, 0.03)
