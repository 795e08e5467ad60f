"""What a person wants to look at: curves, ranked lists, the report of a run."""

from mbn_jax.errors import require_system

require_system(__name__)
