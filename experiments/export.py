"""`python -m mbn_jax export` from a clone: `--help` says what it does."""

from mbn_jax.commands import run

run("export")
