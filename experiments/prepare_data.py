"""`python -m mbn_jax prepare` from a clone: `--help` says what it does."""

from mbn_jax.commands import run

run("prepare")
