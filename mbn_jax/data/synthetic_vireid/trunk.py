"""The bare trunk, which garments and bags lie on."""

import numpy as np

from mbn_jax.data.synthetic_vireid.identity import Body


def half_axes(body: Body, height: float) -> tuple[float, float]:
    """Half axes (lateral, sagittal) of the bare trunk `height` metres over ground."""
    depth = 0.062 * body.height * body.girth
    levels = np.array([0.40, 0.50, 0.60, 0.72, 0.79, 0.82, 0.85]) * body.height
    waist = 0.85 * min(body.hip, body.shoulder) * body.girth**0.7
    lateral = [
        body.hip * body.girth**0.5 * 1.02,
        body.hip * body.girth**0.5 * 1.05,
        waist,
        0.95 * body.shoulder * body.girth**0.4,
        1.03 * body.shoulder,
        0.85 * body.shoulder,
        0.45 * body.shoulder,
    ]
    sagittal = [depth, 1.05 * depth, depth * body.girth**0.7, 1.1 * depth, depth]
    sagittal += [0.8 * depth, 0.5 * depth]
    return (
        float(np.interp(height, levels, lateral)),
        float(np.interp(height, levels, sagittal)),
    )
