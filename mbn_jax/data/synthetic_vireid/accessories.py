"""Hair, hats and bags as parts of the figure."""

import math

import numpy as np

from mbn_jax.data.synthetic_vireid.figure import Label, Part, trunk_half_axes
from mbn_jax.data.synthetic_vireid.geometry import View, box, capsule, ellipse, loft
from mbn_jax.data.synthetic_vireid.identity import Identity
from mbn_jax.data.synthetic_vireid.pose import Skeleton

_HEAD_ORDER = 0.026  # the head's own place in figure.py
_IN_FRONT = 0.5


def head_parts(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    """Hair and hat."""
    style, r, head = identity.hair.style, identity.body.head, joints.head
    parts: list[Part] = []

    def at(up: float, back: float) -> np.ndarray:
        return head + r * np.array([0.0, up, -back])

    def add(outline, centre, label=Label.HAIR, bias=0.0):
        depth = float(view.project(centre - head)[2])
        order = _HEAD_ORDER + 0.1 * (depth + 0.25 * r) + bias
        parts.append(Part(outline, label, order, 0.05 + depth))

    def ball(up, back, across, high, label=Label.HAIR):
        centre = at(up, back)
        add(ellipse(view, centre, (across * r, high * r)), centre, label)

    # Seen from the front the back of the head lies behind the face and only its rim
    # shows; seen from behind it covers the face.
    if style == "curly":
        ball(0.3, 0.35, 1.3, 1.2)
    elif style != "bald":
        ball(0.12, 0.3, 0.8, 0.98)
    if style in ("bob", "long"):
        end, width = (-1.15, 1.1) if style == "bob" else (-3.0, 1.15)
        levels = [
            (at(0.6, 0.25), 0.7 * r, 0.6 * r),
            (at(0.0, 0.35), width * r, 0.75 * r),
            (at(end, 0.75), width * r, 0.5 * r),
        ]
        add(loft(view, levels), at(-0.5, 0.5))
    elif style == "ponytail":
        add(
            capsule(view, at(0.35, 0.95), at(-2.1, 1.45), (0.28 * r, 0.2 * r)),
            at(0.0, 1.2),
        )
    elif style == "bun":
        ball(0.95, 0.55, 0.5, 0.45)
    if style in ("short", "bob", "long", "ponytail", "bun"):
        fringe = _upper_half(view, at(0.42, 0.0), 0.72 * r, 0.6 * r)
        parts.append(Part(fringe, Label.HAIR, _HEAD_ORDER + 1e-3, 0.06))
    if style in ("cap", "beanie"):
        high = 0.85 if style == "cap" else 1.1
        crown = _upper_half(view, at(0.22, 0.05), 0.88 * r, high * r)
        parts.append(Part(crown, Label.HAT, _HEAD_ORDER + 5e-3, 0.07))
    if style == "cap":
        brim = capsule(view, at(0.3, -0.5), at(0.18, -1.45), (0.16 * r, 0.13 * r))
        seen = float(math.cos(view.yaw)) > -0.5
        parts.append(Part(brim, Label.HAT, _HEAD_ORDER + (6e-3 if seen else -1), 0.1))
    return parts


def _upper_half(view: View, centre: np.ndarray, across: float, high: float):
    """The outline of the upper half of an ellipse, half axes in metres."""
    turn = np.linspace(0.0, math.pi, 10)
    arc = np.stack([across * np.cos(turn), -high * np.sin(turn)], axis=1)
    return view.project(centre)[:2] + view.scale * arc


def bag_parts(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    """The thing carried and its straps."""
    bag, body = identity.bag, identity.body
    left = (1 + bag.side) // 2  # position in the skeleton's pairs
    hand, shoulder = joints.hands[left], joints.shoulders[left]
    outward = np.array([float(bag.side), 0.0, 0.0])
    if bag.kind == "none":
        return []
    if bag.kind == "backpack":
        return _backpack(identity, joints, view)
    if bag.kind == "handbag":
        half = bag.size * np.array([0.06, 0.11, 0.16])
        centre = hand - np.array([0.0, half[1] + 0.13, 0.0]) + 0.02 * outward
        ends = [centre + np.array([0.0, half[1], z]) for z in (-0.08, 0.08)]
        straps = [(hand, end) for end in ends]
    elif bag.kind == "tote":
        half = bag.size * np.array([0.055, 0.17, 0.17])
        hips = body.hip * body.girth**0.5 + identity.upper.looseness
        centre = np.array([0.0, 0.52 * body.height, -0.04])
        centre = centre + (hips + 0.09) * outward
        ends = [centre + np.array([0.0, half[1], z]) for z in (-0.07, 0.07)]
        straps = [(shoulder, end) for end in ends]
    elif bag.kind == "messenger":
        # Across the body: the strap starts at the other shoulder.
        half = bag.size * np.array([0.05, 0.12, 0.16])
        hips = body.hip * body.girth**0.5 + identity.upper.looseness
        centre = np.array([0.0, 0.47 * body.height, -0.03]) + (hips + 0.05) * outward
        depth = 0.08 * body.height * body.girth + identity.upper.looseness
        middle = joints.spine(0.66 * body.height)
        other = joints.shoulders[1 - left] + np.array([0.0, 0.03, 0.0])
        straps = []
        for face in (-1.0, 1.0):
            crossing = middle + np.array([0.0, 0.0, face * depth])
            straps += [(other, crossing), (crossing, centre)]
    else:  # trolley
        half = bag.size * np.array([0.17, 0.27, 0.11])
        centre = np.array([hand[0] + 0.03 * bag.side, half[1] + 0.03, hand[2] - 0.25])
        straps = [(hand, centre + np.array([0.0, half[1], 0.0]))]
    return _carried(view, centre, half, straps)


def _carried(view: View, centre, half, straps) -> list[Part]:
    """A box and the straps that hold it."""
    depth = float(view.project(centre)[2])
    order = _IN_FRONT + depth if depth > -0.08 else depth - _IN_FRONT
    parts = [Part(box(view, centre, half), Label.BAG, order, depth)]
    for start, end in straps:
        nearness = float(view.project(0.5 * (start + end))[2])
        # Straps lie on the trunk or behind it, under the near arm or over the far one.
        order = 0.0225 if nearness > -0.02 else -0.9
        outline = capsule(view, start, end, (0.013, 0.013))
        parts.append(Part(outline, Label.STRAP, order, nearness))
    return parts


def _backpack(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    bag, body = identity.bag, identity.body
    height = 0.70 * body.height
    _, sagittal = trunk_half_axes(identity, height)
    surface = sagittal + identity.upper.looseness
    half = bag.size * np.array([0.145, 0.21, 0.085])
    centre = joints.spine(height) - np.array([0.0, 0.0, surface + half[2]])
    depth = float(view.project(centre)[2])
    order = _IN_FRONT + depth if depth > 0.1 else 0.024 if depth > -0.1 else -0.5
    parts = [Part(box(view, centre, half), Label.BAG, order, depth)]
    if depth > 0.1:  # a pocket tells the back from the front
        pocket = centre + np.array([0.0, -0.4 * half[1], -half[2]])
        outline = box(view, pocket, (0.7 * half[0], 0.4 * half[1], 0.01))
        parts.append(Part(outline, Label.STRAP, order + 1e-3, depth))
    if depth < 0.1:
        for side in (-1.0, 1.0):
            x = 0.62 * side * body.shoulder
            top = joints.neck + np.array([x, -0.02 * body.height, 0.4 * surface])
            end = joints.spine(0.66 * body.height) + np.array([1.1 * x, 0.0, surface])
            outline = capsule(view, top, end, (0.02, 0.017))
            if float(view.project(np.array([0.3 * x, 0.0, surface]))[2]) > -0.02:
                parts.append(Part(outline, Label.STRAP, 0.0235, 0.03))
    return parts
