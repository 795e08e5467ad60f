"""Interceptors under `python -O`, which takes the removal of them out of Flax."""

import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp
from flax import linen as nn
from mbn_jax import ModalityBatchNorm, convert
from mbn_jax.analysis.gap import measure_gaps

class Network(nn.Module):
    @nn.compact
    def __call__(self, x, modality, train):
        x = nn.Dense(2)(x)
        return ModalityBatchNorm()(x, modality, use_running_average=not train)

assert False, "this is python -O"
network, x, modality = Network(), jnp.arange(8.0).reshape(4, 2), jnp.arange(4) % 2
variables = network.init(jax.random.key(0), x, modality, train=True)
train = lambda *a, **options: network.apply(*a, train=True, **options)
step = jax.jit(lambda v, x: train(v, x, modality, mutable=["batch_stats"])[0])
for _ in range(2):
    convert.estimate_statistics(train, variables, [(x, modality)])
    measure_gaps(network, variables, [(x, modality)], train=True)
    step(variables, x)
print("done")
"""


def test_gaps_and_estimation_leave_no_tracer_behind_without_assertions():
    done = subprocess.run(
        [sys.executable, "-O", "-c", PROGRAM], capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr
