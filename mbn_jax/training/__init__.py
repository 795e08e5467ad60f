"""The run: mesh, step, loop, checkpoints, and what is logged."""
