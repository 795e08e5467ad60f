"""`python -m mbn_jax gap` from a clone: `--help` says what it does."""

from mbn_jax.commands import run

run("gap")
