"""`python -m mbn_jax train` from a clone: `--help` says what it does."""

from mbn_jax.commands import run

run("train")
