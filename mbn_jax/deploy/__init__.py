"""Taking a trained network elsewhere: exported models, shared weights, new cameras."""

from mbn_jax.errors import require_system

require_system(__name__)
