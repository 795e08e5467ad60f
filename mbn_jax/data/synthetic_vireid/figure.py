"""A posed person as a list of parts: head, trunk, limbs, garments and bags.

Trunk, skirts and coats are stacks of elliptic cross-sections along the spine, so that
their outline is right in every view.
"""

import itertools
import math

import numpy as np

from mbn_jax.data.synthetic_vireid.parts import Label, Order, Part, View
from mbn_jax.data.synthetic_vireid.person import Body, Identity, Point, Pose, Skeleton

Level = tuple[Point, float, float]  # center, lateral and sagittal half axis


def figure(identity: Identity, pose: Pose, view: View) -> list[Part]:
    """The parts of a person, in no order."""
    joints = Skeleton.of(identity, pose)
    parts = head_parts(identity, joints, view) + bag_parts(identity, joints, view)
    for side in (0, 1):
        parts += leg(identity, joints, view, side) + arm(identity, joints, view, side)
    parts += _neck(identity.body, joints, view)
    parts.append(_pelvis(identity, joints, pose, view))
    return parts + _trunk(identity, joints, pose, view)


def _neck(body: Body, joints: Skeleton, view: View) -> list[Part]:
    top = joints.head - np.array([0.0, 0.4 * body.head, 0.0])
    radius = 0.033 * body.height * body.girth**0.5
    neck = view.capsule(joints.neck, top, (radius, radius))
    return [Part(neck, Label.SKIN, Order.NECK, 0.0)]


def _pelvis(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> Part:
    """The part of trousers or skirt round the pelvis."""
    body, lower = identity.body, identity.lower
    end = 0.5 - 0.44 * lower.length if lower.skirt else 0.46
    ease = 0.004 + 0.3 * lower.looseness
    levels = [
        _level(identity, joints, height * body.height, ease)
        for height in (0.60, 0.53, end)
    ]
    if lower.skirt:
        flare = (0.02 + 1.6 * lower.looseness) * lower.length
        levels[-1] = _hem(levels[-1], joints, pose, flare)
    return Part(view.loft(levels, sag=0.012), Label.LOWER, Order.LOWER, 0.01)


def _trunk(identity: Identity, joints: Skeleton, pose: Pose, view: View) -> list[Part]:
    body, upper = identity.body, identity.upper
    ease = 0.006 + upper.looseness
    hem = upper.hem * body.height
    heights = [0.85, 0.82, 0.79, 0.72, 0.64, 0.56, 0.50, 0.42]
    heights = [h * body.height for h in heights if h > upper.hem + 0.02] + [hem]
    levels = [_level(identity, joints, h, ease) for h in heights]
    if upper.hem < 0.45:
        levels[-1] = _hem(levels[-1], joints, pose, 0.03)
    parts = [Part(view.loft(levels, sag=0.012), Label.UPPER, Order.TRUNK, 0.02)]
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
        hood = view.ellipse(back, (0.075 * body.height, 0.05 * body.height))
        parts.append(Part(hood, Label.UPPER, order, depth))
    return parts


def _level(identity: Identity, joints: Skeleton, height: float, ease: float) -> Level:
    """A cross-section of the trunk, `ease` meters off the body."""
    lateral, sagittal = half_axes(identity.body, height)
    return joints.spine(height), lateral + ease, sagittal + ease


def _hem(level: Level, joints: Skeleton, pose: Pose, flare: float) -> Level:
    """A cross-section below the hip: the legs within it spread it while walking."""
    center, lateral, sagittal = level
    drop = max(joints.pelvis[1] - center[1], 0.0)
    return (
        center,
        lateral + flare,
        sagittal + flare + 0.8 * drop * math.sin(pose.stride),
    )


def _front_panel(
    levels: list[Level], view: View, share: float, label: Label, front: float = 1.0
) -> Part:
    """A band `share` as wide as the trunk on its front (1) or back (-1)."""
    left, right = [], []
    for center, lateral, sagittal in levels:
        forward = np.array([0.0, 0.0, 0.9 * front * sagittal])
        half = np.array([share * lateral, 0.0, 0.0])
        left.append(center - half + forward)
        right.append(center + half + forward)
    outline = view.project(np.array(left + right[::-1]))[:, :2]
    return Part(outline, label, Order.PANEL, 0.03)


def half_axes(body: Body, height: float) -> tuple[float, float]:
    """Half axes (lateral, sagittal) of the bare trunk `height` meters over ground."""
    depth = 0.062 * body.height * body.girth
    hip, shoulder, girth = body.hip * body.girth**0.5, body.shoulder, body.girth
    waist = 0.85 * min(body.hip, shoulder) * girth**0.7
    levels, lateral, sagittal = zip(
        (0.40, hip * 1.02, depth),
        (0.50, hip * 1.05, 1.05 * depth),
        (0.60, waist, depth * girth**0.7),
        (0.72, 0.95 * shoulder * girth**0.4, 1.1 * depth),
        (0.79, 1.03 * shoulder, depth),
        (0.82, 0.85 * shoulder, 0.8 * depth),
        (0.85, 0.45 * shoulder, 0.5 * depth),
        strict=True,
    )
    heights = np.array(levels) * body.height
    return (
        float(np.interp(height, heights, lateral)),
        float(np.interp(height, heights, sagittal)),
    )


class _Limb:
    """Collects the parts of one limb; a garment lies a layer above what it covers."""

    def __init__(self, view: View, order: float, depth: float):
        self.parts: list[Part] = []
        self._view, self._order, self._depth = view, order, depth

    def add(
        self, a: Point, b: Point, radii: tuple[float, float], label: Label, layer: int
    ) -> None:
        """Adds the stretch from `a` to `b`."""
        outline = self._view.capsule(a, b, radii)
        order = self._order + 1e-4 * layer
        self.parts.append(Part(outline, label, order, self._depth))


def leg(identity: Identity, joints: Skeleton, view: View, side: int) -> list[Part]:
    """One leg with shoe and trousers; `side` 0 is the right one, 1 the left."""
    body, lower, shoes = identity.body, identity.lower, identity.shoes
    hip, knee, ankle = joints.hips[side], joints.knees[side], joints.ankles[side]
    unit = body.height * body.girth**0.8
    thigh, calf, heel = 0.05 * unit, 0.033 * unit, 0.021 * unit
    depth = float(view.project(knee)[2])
    limb = _Limb(view, Order.LEGS + 0.02 * depth, depth)
    limb.add(hip, knee, (thigh, calf), Label.SKIN, 0)
    limb.add(knee, ankle, (calf, heel), Label.SKIN, 0)
    foot = (0.026 * body.height, 0.019 * body.height)
    limb.add(ankle, joints.toes[side], foot, Label.SHOES, 1)
    if shoes.shaft > 0:
        top = ankle + shoes.shaft * (knee - ankle)
        limb.add(top, ankle, (0.033 * unit + 0.005, 0.028 * unit), Label.SHOES, 5)
    if lower.skirt:
        return limb.parts

    ease = lower.looseness
    wide = (thigh + 0.3 * ease, calf + 0.004 + 0.7 * ease)
    cuff = heel + 0.006 + ease
    thigh_end, shin_end = _covered((hip, knee, ankle), lower.length)
    limb.add(hip, thigh_end, wide, Label.LOWER, 3)
    seam = [(hip, wide[0]), (thigh_end, wide[1])]
    if lower.length > 0.5:
        limb.add(knee, shin_end, (wide[1], cuff), Label.LOWER, 3)
        seam.append((shin_end, cuff))
    outward = np.array([2.0 * side - 1.0, 0.0, 0.0])
    # A band down the outer seam, for the camera that sees that side of the leg.
    if lower.fabric.pattern == "side_stripe" and view.project(outward)[2] > -0.35:
        band = 0.018
        points = [joint + max(radius - band, 0.0) * outward for joint, radius in seam]
        for a, b in itertools.pairwise(points):
            limb.add(a, b, (band, band), Label.LOWER_PRINT, 4)
    return limb.parts


def arm(identity: Identity, joints: Skeleton, view: View, side: int) -> list[Part]:
    """One arm with hand and sleeve; `side` 0 is the right one, 1 the left."""
    body, upper = identity.body, identity.upper
    shoulder, elbow = joints.shoulders[side], joints.elbows[side]
    hand = joints.hands[side]
    unit = body.height * body.girth**0.7
    top, middle, wrist = 0.029 * unit, 0.023 * unit, 0.016 * unit
    depth = float(view.project(elbow)[2])
    order = depth + Order.ARM if depth > -0.06 else depth - 0.2
    limb = _Limb(view, order, depth)
    limb.add(shoulder, elbow, (top, middle), Label.SKIN, 0)
    limb.add(elbow, hand, (middle, wrist), Label.SKIN, 0)
    palm = hand + 0.25 * (hand - elbow)
    limb.add(hand, palm, (wrist, 1.2 * wrist), Label.SKIN, 0)
    if upper.sleeve > 0:
        ease = 0.006 + 0.6 * upper.looseness
        upper_end, fore_end = _covered((shoulder, elbow, hand), upper.sleeve)
        wide = (top + 0.5 * ease, middle + ease)
        limb.add(shoulder, upper_end, wide, Label.UPPER, 2)
        if upper.sleeve > 0.5:
            cuff = wrist + 0.004 + ease
            limb.add(elbow, fore_end, (wide[1], cuff), Label.UPPER, 2)
    return limb.parts


def _covered(chain: tuple[Point, Point, Point], fraction: float) -> tuple[Point, Point]:
    """Where a garment ends on the first and on the second half of a limb."""
    first = chain[0] + min(2 * fraction, 1.0) * (chain[1] - chain[0])
    second = chain[1] + max(2 * fraction - 1.0, 0.0) * (chain[2] - chain[1])
    return first, second


def head_parts(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    """Face, hair and hat; `r` is the unit of length."""
    style, r, head = identity.hair.style, identity.body.head, joints.head
    face = view.ellipse(head, (0.74 * r, r))
    parts = [Part(face, Label.SKIN, Order.HEAD, 0.05)]

    def at(x: float, up: float, back: float) -> Point:
        return head + r * np.array([x, up, -back])

    def add(outline: np.ndarray, center: Point) -> None:
        # Seen from the front the back of the head lies behind the face and only its
        # rim shows; seen from behind it covers the face.
        depth = float(view.project(center - head)[2])
        order = Order.HEAD + depth + 0.25 * r
        parts.append(Part(outline, Label.HAIR, order, 0.05 + depth))

    def ball(up: float, back: float, across: float, high: float) -> None:
        center = at(0.0, up, back)
        add(view.ellipse(center, (across * r, high * r)), center)

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
        add(view.loft(levels), at(0.0, -0.5, 0.5))
    elif style == "ponytail":
        tail = at(0.0, 0.35, 0.95), at(0.0, -2.1, 1.45)
        add(view.capsule(*tail, (0.28 * r, 0.2 * r)), at(0.0, 0.0, 1.2))
    elif style == "bun":
        ball(0.95, 0.55, 0.5, 0.45)
    for x in (-0.3, 0.3):
        eye = at(x, 0.1, -0.72)
        if view.project(eye - head)[2] > 0.1 * r:
            outline = view.ellipse(eye, (0.11 * r, 0.07 * r))
            parts.append(Part(outline, Label.EYE, Order.HEAD + 1e-4, 0.05))
    if style in ("short", "bob", "long", "ponytail", "bun"):
        crown(0.42, 0.72, 0.6, Label.HAIR, Order.HEAD + 1e-3)
    elif style in ("cap", "beanie"):
        crown(0.22, 0.88, 0.85 if style == "cap" else 1.1, Label.HAT, Order.HAT)
    if style == "cap":
        brim = view.capsule(
            at(0.0, 0.3, -0.5), at(0.0, 0.18, -1.45), (0.16 * r, 0.13 * r)
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
        center = hand - np.array([0.0, half[1] + 0.13, 0.0]) + 0.02 * outward
        for z in (-0.08, 0.08):
            straps.append((hand, center + np.array([0.0, half[1], z])))
    elif bag.kind == "tote":
        half = bag.size * np.array([0.055, 0.17, 0.17])
        center = np.array([0.0, 0.52 * body.height, -0.04]) + (hips + 0.09) * outward
        for z in (-0.07, 0.07):
            straps.append((shoulder, center + np.array([0.0, half[1], z])))
    elif bag.kind == "messenger":
        # Across the body: the strap starts at the other shoulder.
        half = bag.size * np.array([0.05, 0.12, 0.16])
        center = np.array([0.0, 0.47 * body.height, -0.03]) + (hips + 0.05) * outward
        depth = 0.08 * body.height * body.girth + identity.upper.looseness
        other = joints.shoulders[1 - left] + np.array([0.0, 0.03, 0.0])
        for face in (-depth, depth):
            crossing = joints.spine(0.66 * body.height) + np.array([0.0, 0.0, face])
            straps += [(other, crossing), (crossing, center)]
    else:  # a trolley, pulled behind
        half = bag.size * np.array([0.15, 0.23, 0.10])
        center = np.array([hand[0] + 0.03 * bag.side, half[1] + 0.03, hand[2] - 0.25])
        straps = [(hand, center + np.array([0.0, half[1], 0.0]))]

    depth = float(view.project(center)[2])
    order = depth + (Order.NEAR if depth > -0.08 else Order.FAR)
    parts = [Part(view.box(center, half), Label.BAG, order, depth)]
    for start, end in straps:
        nearness = float(view.project(0.5 * (start + end))[2])
        order = Order.STRAP if nearness > -0.02 else Order.FAR
        outline = view.capsule(start, end, (0.013, 0.013))
        parts.append(Part(outline, Label.STRAP, order, nearness))
    return parts


def _backpack(identity: Identity, joints: Skeleton, view: View) -> list[Part]:
    bag, body = identity.bag, identity.body
    height = 0.70 * body.height
    surface = half_axes(body, height)[1] + identity.upper.looseness
    half = bag.size * np.array([0.145, 0.21, 0.085])
    center = joints.spine(height) - np.array([0.0, 0.0, surface + half[2]])
    depth = float(view.project(center)[2])
    if depth > 0.1:
        order = Order.NEAR + depth
    else:
        order = Order.STRAP + 1e-3 if depth > -0.1 else Order.FAR
    parts = [Part(view.box(center, half), Label.BAG, order, depth)]
    if depth > 0.1:  # a pocket tells the back from the front
        pocket = center + np.array([0.0, -0.4 * half[1], -half[2]])
        outline = view.box(pocket, (0.7 * half[0], 0.4 * half[1], 0.01))
        parts.append(Part(outline, Label.STRAP, order + 1e-3, depth))
        return parts
    for side in (-1.0, 1.0):
        x = 0.62 * side * body.shoulder
        top = joints.neck + np.array([x, -0.02 * body.height, 0.4 * surface])
        end = joints.spine(0.66 * body.height) + np.array([1.1 * x, 0.0, surface])
        if view.project(np.array([0.3 * x, 0.0, surface]))[2] > -0.02:
            outline = view.capsule(top, end, (0.02, 0.017))
            parts.append(Part(outline, Label.STRAP, Order.STRAP, 0.03))
    return parts
