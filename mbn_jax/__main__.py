"""`python -m mbn_jax COMMAND`."""

from mbn_jax.commands import main

main()
