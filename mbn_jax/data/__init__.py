"""Data sets, balanced batches, and the way from a stored image to the device."""

from mbn_jax.errors import require_system

require_system(__name__)
