"""One process of two, with four devices: `python -m tests.norm.worker PORT ID OUT`."""

import sys

import jax
import numpy as np


def main(port, process_id, out):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process_id))
    assert (jax.local_device_count(), jax.device_count()) == (4, 8)

    # After the devices are set: these modules may touch them.
    from .layers import make, random_variables
    from .spreads import batch
    from .styles import run

    leaves = {}
    for case in CASES:
        kind, style, spread = case
        layer = make(kind, features=4, share_affine=False)
        result = run(style, layer, random_variables(layer), batch(spread))
        for i, leaf in enumerate(jax.tree.leaves(result)):
            leaves["-".join((*case, str(i)))] = leaf
    np.savez(out, **leaves)
    jax.distributed.shutdown()


CASES = [
    (kind, style, spread)
    for kind in ("linen", "nnx")
    for style in ("jit", "shard_map", "pmap")
    for spread in ("balanced", "unequal", "empty of a modality", "empty by the mask")
]

if __name__ == "__main__":
    main(*sys.argv[1:])
