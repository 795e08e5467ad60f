"""Head, hair, hats and bags."""

import math

import numpy as np

from mbn_jax.data.synthetic_vireid.geometry import View, box, capsule, ellipse, loft
from mbn_jax.data.synthetic_vireid.identity import Identity
from mbn_jax.data.synthetic_vireid.parts import Label, Order, Part
from mbn_jax.data.synthetic_vireid.pose import Point, Skeleton
from mbn_jax.data.synthetic_vireid.trunk import half_axes


def head_parts(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    """Face, hair and hat; `r` is the unit of length."""
    style, r, head = identity.hair.style, identity.body.head, joints.head
    face = ellipse(view, head, (0.74 * r, r))
    parts = [Part(face, Label.SKIN, Order.HEAD, 0.05)]

    def at(x: float, up: float, back: float) -> Point:
        return head + r * np.array([x, up, -back])

    def add(outline: np.ndarray, centre: Point) -> None:
        # Seen from the front the back of the head lies behind the face and only its
        # rim shows; seen from behind it covers the face.
        depth = float(view.project(centre - head)[2])
        order = Order.HEAD + depth + 0.25 * r
        parts.append(Part(outline, Label.HAIR, order, 0.05 + depth))

    def ball(up: float, back: float, across: float, high: float) -> None:
        centre = at(0.0, up, back)
        add(ellipse(view, centre, (across * r, high * r)), centre)

    def crown(
        up: float, across: float, high: float, label: Label, order: float
    ) -> None:
        turn = np.linspace(0.0, math.pi, 10)
        arc = r * np.stack([across * np.cos(turn), -high * np.sin(turn)], axis=1)
        outline = view.project(at(0.0, up, 0.0))[:2] + view.scale * arc
        parts.append(Part(outline, label, order, 0.06))

    if style == "curly":
        ball(0.3, 0.35, 1.3, 1.2)
    elif style != "bald":
        ball(0.12, 0.3, 0.8, 0.98)
    if style in ("bob", "long"):
        end, width = (-1.15, 1.1) if style == "bob" else (-3.0, 1.15)
        levels = [
            (at(0.0, 0.6, 0.25), 0.7 * r, 0.6 * r),
            (at(0.0, 0.0, 0.35), width * r, 0.75 * r),
            (at(0.0, end, 0.75), width * r, 0.5 * r),
        ]
        add(loft(view, levels), at(0.0, -0.5, 0.5))
    elif style == "ponytail":
        tail = at(0.0, 0.35, 0.95), at(0.0, -2.1, 1.45)
        add(capsule(view, *tail, (0.28 * r, 0.2 * r)), at(0.0, 0.0, 1.2))
    elif style == "bun":
        ball(0.95, 0.55, 0.5, 0.45)
    for x in (-0.3, 0.3):
        eye = at(x, 0.1, -0.72)
        if view.project(eye - head)[2] > 0.1 * r:
            outline = ellipse(view, eye, (0.11 * r, 0.07 * r))
            parts.append(Part(outline, Label.EYE, Order.HEAD + 1e-4, 0.05))
    if style in ("short", "bob", "long", "ponytail", "bun"):
        crown(0.42, 0.72, 0.6, Label.HAIR, Order.HEAD + 1e-3)
    elif style in ("cap", "beanie"):
        crown(0.22, 0.88, 0.85 if style == "cap" else 1.1, Label.HAT, Order.HAT)
    if style == "cap":
        brim = capsule(
            view, at(0.0, 0.3, -0.5), at(0.0, 0.18, -1.45), (0.16 * r, 0.13 * r)
        )
        order = Order.HAT if math.cos(view.yaw) > -0.5 else Order.FAR
        parts.append(Part(brim, Label.HAT, order, 0.1))
    return parts


def bag_parts(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    """The thing carried and its straps."""
    bag, body = identity.bag, identity.body
    if bag.kind == "none":
        return []
    if bag.kind == "backpack":
        return _backpack(identity, joints, view)
    left = (1 + bag.side) // 2  # position in the skeleton's pairs
    hand, shoulder = joints.hands[left], joints.shoulders[left]
    outward = np.array([float(bag.side), 0.0, 0.0])
    hips = body.hip * body.girth**0.5 + identity.upper.looseness
    straps: list[tuple[Point, Point]] = []
    if bag.kind == "handbag":
        half = bag.size * np.array([0.06, 0.11, 0.16])
        centre = hand - np.array([0.0, half[1] + 0.13, 0.0]) + 0.02 * outward
        for z in (-0.08, 0.08):
            straps.append((hand, centre + np.array([0.0, half[1], z])))
    elif bag.kind == "tote":
        half = bag.size * np.array([0.055, 0.17, 0.17])
        centre = np.array([0.0, 0.52 * body.height, -0.04]) + (hips + 0.09) * outward
        for z in (-0.07, 0.07):
            straps.append((shoulder, centre + np.array([0.0, half[1], z])))
    elif bag.kind == "messenger":
        # Across the body: the strap starts at the other shoulder.
        half = bag.size * np.array([0.05, 0.12, 0.16])
        centre = np.array([0.0, 0.47 * body.height, -0.03]) + (hips + 0.05) * outward
        depth = 0.08 * body.height * body.girth + identity.upper.looseness
        other = joints.shoulders[1 - left] + np.array([0.0, 0.03, 0.0])
        for face in (-depth, depth):
            crossing = joints.spine(0.66 * body.height) + np.array([0.0, 0.0, face])
            straps += [(other, crossing), (crossing, centre)]
    else:  # a trolley, pulled behind
        half = bag.size * np.array([0.15, 0.23, 0.10])
        centre = np.array([hand[0] + 0.03 * bag.side, half[1] + 0.03, hand[2] - 0.25])
        straps = [(hand, centre + np.array([0.0, half[1], 0.0]))]

    depth = float(view.project(centre)[2])
    order = depth + (Order.NEAR if depth > -0.08 else Order.FAR)
    parts = [Part(box(view, centre, half), Label.BAG, order, depth)]
    for start, end in straps:
        nearness = float(view.project(0.5 * (start + end))[2])
        order = Order.STRAP if nearness > -0.02 else Order.FAR
        outline = capsule(view, start, end, (0.013, 0.013))
        parts.append(Part(outline, Label.STRAP, order, nearness))
    return parts


def _backpack(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    bag, body = identity.bag, identity.body
    height = 0.70 * body.height
    surface = half_axes(body, height)[1] + identity.upper.looseness
    half = bag.size * np.array([0.145, 0.21, 0.085])
    centre = joints.spine(height) - np.array([0.0, 0.0, surface + half[2]])
    depth = float(view.project(centre)[2])
    if depth > 0.1:
        order = Order.NEAR + depth
    else:
        order = Order.STRAP + 1e-3 if depth > -0.1 else Order.FAR
    parts = [Part(box(view, centre, half), Label.BAG, order, depth)]
    if depth > 0.1:  # a pocket tells the back from the front
        pocket = centre + np.array([0.0, -0.4 * half[1], -half[2]])
        outline = box(view, pocket, (0.7 * half[0], 0.4 * half[1], 0.01))
        parts.append(Part(outline, Label.STRAP, order + 1e-3, depth))
        return parts
    for side in (-1.0, 1.0):
        x = 0.62 * side * body.shoulder
        top = joints.neck + np.array([x, -0.02 * body.height, 0.4 * surface])
        end = joints.spine(0.66 * body.height) + np.array([1.1 * x, 0.0, surface])
        if view.project(np.array([0.3 * x, 0.0, surface]))[2] > -0.02:
            outline = capsule(view, top, end, (0.02, 0.017))
            parts.append(Part(outline, Label.STRAP, Order.STRAP, 0.03))
    return parts
