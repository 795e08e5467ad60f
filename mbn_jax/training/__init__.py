"""The run: mesh, step, loop, checkpoints, and what is logged."""

from mbn_jax.errors import require_system

require_system(__name__)
