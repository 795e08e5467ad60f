"""Arms and legs, and the garments on them."""

import itertools

import numpy as np

from mbn_jax.data.synthetic_vireid.geometry import View, capsule
from mbn_jax.data.synthetic_vireid.identity import Identity
from mbn_jax.data.synthetic_vireid.parts import Label, Order, Part
from mbn_jax.data.synthetic_vireid.pose import Point, Skeleton


class _Limb:
    """Collects the parts of one limb; a garment lies a layer above what it covers."""

    def __init__(self, view: View, order: float, depth: float):
        self.parts: list[Part] = []
        self._view, self._order, self._depth = view, order, depth

    def add(
        self, a: Point, b: Point, radii: tuple[float, float], label: Label, layer: int
    ) -> None:
        """Adds the stretch from `a` to `b`."""
        outline = capsule(self._view, a, b, radii)
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
