"""Uses of a trained network: features, search, new cameras, exported models."""

from mbn_jax.errors import require_system

require_system(__name__)
