"""A posed person as a list of parts: the trunk with its garments, and everything else.

Trunk, skirts and coats are stacks of elliptic cross-sections along the spine, so that
their outline is right in every view.
"""

import math

import numpy as np

from mbn_jax.data.synthetic_vireid.accessories import bag_parts, head_parts
from mbn_jax.data.synthetic_vireid.geometry import View, capsule, ellipse, loft
from mbn_jax.data.synthetic_vireid.identity import Body, Identity
from mbn_jax.data.synthetic_vireid.limbs import arm, leg
from mbn_jax.data.synthetic_vireid.parts import Label, Order, Part
from mbn_jax.data.synthetic_vireid.pose import Point, Pose, Skeleton, skeleton
from mbn_jax.data.synthetic_vireid.trunk import half_axes

Level = tuple[Point, float, float]  # centre, lateral and sagittal half axis


def figure(identity: Identity, pose: Pose, view: View) -> list[Part]:
    """The parts of a person, in no order."""
    joints = skeleton(identity, pose)
    parts = head_parts(identity, joints, view) + bag_parts(identity, joints, view)
    for side in (0, 1):
        parts += leg(identity, joints, view, side) + arm(identity, joints, view, side)
    parts += _neck(identity.body, joints, view)
    parts.append(_pelvis(identity, joints, pose, view))
    return parts + _trunk(identity, joints, pose, view)


def _neck(body: Body, joints: Skeleton, view: View) -> list[Part]:
    top = joints.head - np.array([0.0, 0.4 * body.head, 0.0])
    radius = 0.033 * body.height * body.girth**0.5
    neck = capsule(view, joints.neck, top, (radius, radius))
    return [Part(neck, Label.SKIN, Order.NECK, 0.0)]


def _pelvis(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> Part:
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
    return Part(loft(view, levels, sag=0.012), Label.LOWER, Order.LOWER, 0.01)


def _trunk(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> list[Part]:
    body, upper = identity.body, identity.upper
    ease = 0.006 + upper.looseness
    hem = upper.hem * body.height
    heights = [0.85, 0.82, 0.79, 0.72, 0.64, 0.56, 0.50, 0.42]
    heights = [h * body.height for h in heights if h > upper.hem + 0.02] + [hem]
    levels = [_level(identity, joints, h, ease) for h in heights]
    if upper.hem < 0.45:
        levels[-1] = _hem(levels[-1], joints, pose, 0.03)
    parts = [Part(loft(view, levels, sag=0.012), Label.UPPER, Order.TRUNK, 0.02)]
    facing = math.cos(view.yaw)
    if upper.inner is not None and facing > 0.25:
        parts.append(_front_panel(levels, view, 0.3, Label.INNER))
    elif upper.fabric.pattern == "logo" and abs(facing) > 0.25:
        # A large print, on the chest and on the back alike.
        front = 1.0 if facing > 0 else -1.0
        chest = [_level(identity, joints, h * body.height, ease) for h in (0.77, 0.66)]
        parts.append(_front_panel(chest, view, 0.62, Label.UPPER_PRINT, front))
    if upper.hood:
        back = joints.neck + np.array([0.0, 0.0, -0.06 * body.height])
        depth = float(view.project(back)[2])
        order = Order.HEAD + 1e-3 if depth > -0.05 else Order.NECK - 1e-3
        parts.append(
            Part(
                ellipse(view, back, (0.075 * body.height, 0.05 * body.height)),
                Label.UPPER,
                order,
                depth,
            )
        )
    return parts


def _level(identity: Identity, joints: Skeleton, height: float, ease: float) -> Level:
    """A cross-section of the trunk, `ease` metres off the body."""
    lateral, sagittal = half_axes(identity.body, height)
    return joints.spine(height), lateral + ease, sagittal + ease


def _hem(level: Level, joints: Skeleton, pose: Pose, flare: float) -> Level:
    """A cross-section below the hip: the legs within it spread it while walking."""
    centre, lateral, sagittal = level
    drop = max(joints.pelvis[1] - centre[1], 0.0)
    return (
        centre,
        lateral + flare,
        sagittal + flare + 0.8 * drop * math.sin(pose.stride),
    )


def _front_panel(
    levels: list[Level], view: View, share: float, label: Label, front: float = 1.0
) -> Part:
    """A band `share` as wide as the trunk on its front (1) or back (-1)."""
    left, right = [], []
    for centre, lateral, sagittal in levels:
        forward = np.array([0.0, 0.0, 0.9 * front * sagittal])
        half = np.array([share * lateral, 0.0, 0.0])
        left.append(centre - half + forward)
        right.append(centre + half + forward)
    outline = view.project(np.array(left + right[::-1]))[:, :2]
    return Part(outline, label, Order.PANEL, 0.03)
