"""Compares ModalityBatchNorm with its alternatives, on a ResNet-50's normalizations.

    python -m benchmarks.norm

measures every normalization of the network separately, in all forms in turn, and adds
up the times; PyTorch is included if it is installed. Then it measures a whole tiny
network, in which the cost of a layer per call matters. It prints Markdown tables;
docs/benchmarks.md holds those that we measured. `train_step.py` measures whole steps.
"""

import argparse
import collections
import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.tables import machine_line, print_table, ratio, track
from mbn_jax import ModalityBatchNorm, by_modality
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet
from mbn_jax.training.launch import keep_freed_memory

Shape = tuple[int, ...]
OURS, REFERENCE = "ModalityBatchNorm", "nn.BatchNorm"
IN_CONTEXT = "nn.BatchNorm in by_modality"
MODES = ("forward", "forward + backward")


class Candidate(NamedTuple):
    """Something to time.

    Attributes:
      run: does the work once and waits for its end.
      cost: bytes accessed, operations and temporary bytes, as reported by XLA.
    """

    run: Callable[[], None]
    cost: tuple[float, float, float]


class Masked(nn.Module):
    """One BatchNorm per modality over a mask, then a selection: correct and slow."""

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array) -> jax.Array:
        """Normalizes `x` (B, …, C)."""
        visible = (modality == 0).reshape(-1, *[1] * (x.ndim - 1))
        norms = [nn.BatchNorm(False, dtype=x.dtype) for _ in range(2)]
        return jnp.where(visible, norms[0](x, mask=visible), norms[1](x, mask=~visible))


class Split(nn.Module):
    """One BatchNorm per half of the batch; the modalities must be in fixed places."""

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array) -> jax.Array:
        """Normalizes `x` (B, …, C), whose first half is one modality."""
        del modality
        return jnp.concatenate(
            [nn.BatchNorm(False, dtype=x.dtype)(half) for half in jnp.split(x, 2)]
        )


class Plain(nn.Module):
    """BatchNorm over the mixed batch: another function, except in by_modality."""

    use_fast_variance: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array) -> jax.Array:
        """Normalizes `x` (B, …, C)."""
        del modality
        return nn.BatchNorm(
            False, dtype=x.dtype, use_fast_variance=self.use_fast_variance
        )(x)


class InContext(nn.Module):
    """An unchanged network, with the modality from the context."""

    network: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, modality: jax.Array, **settings: Any) -> Any:
        """Calls the network inside the context."""
        with by_modality(modality):
            return self.network(x, modality, **settings)


def flax_forms(dtype: jnp.dtype) -> dict[str, nn.Module]:
    """Returns the layers to compare, by their names in the tables."""
    return {
        OURS: ModalityBatchNorm(False, dtype=dtype),
        IN_CONTEXT: InContext(Plain()),
        REFERENCE: Plain(),
        "nn.BatchNorm, two-pass": Plain(use_fast_variance=False),
        "masked nn.BatchNorm each": Masked(),
        "split + two nn.BatchNorm": Split(),
    }


def flax_candidate(
    layer: nn.Module, x: jax.Array, mode: str, **settings: Any
) -> Candidate:
    """Compiles a layer or network, with its updated statistics, for an input."""
    modality = jnp.arange(len(x)) // (len(x) // 2)
    init = jax.jit(partial(layer.init, **settings))
    variables = init(jax.random.key(0), x, modality)

    def forward(params: Any, x: jax.Array, modality: jax.Array) -> Any:
        return layer.apply(
            {**variables, "params": params},
            x,
            modality,
            **settings,
            mutable=["batch_stats"],
        )

    def both(
        params: Any, x: jax.Array, modality: jax.Array, cotangent: jax.Array
    ) -> Any:
        y, backward, updates = jax.vjp(
            lambda params, x: forward(params, x, modality), params, x, has_aux=True
        )
        return y, backward(cotangent), updates

    arguments: tuple[Any, ...] = (variables["params"], x, modality)
    if mode == "forward":
        compiled = jax.jit(forward).lower(*arguments).compile()
    else:
        y, _ = jax.eval_shape(forward, *arguments)
        arguments = (*arguments, jax.random.normal(jax.random.key(1), y.shape, y.dtype))
        compiled = jax.jit(both).lower(*arguments).compile()
    return Candidate(
        lambda: jax.block_until_ready(compiled(*arguments)), cost(compiled)
    )


def torch_candidate(x: jax.Array, mode: str) -> Candidate:
    """Makes PyTorch's split form, in the memory layout in which it is fastest."""
    # OpenMP threads that wait by spinning compete with XLA's threads for the cores: a
    # normalization of 0.1 ms took 90 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[x.dtype.name]
    values = torch.from_numpy(np.array(x, np.float32)).to(dtype)
    if values.ndim == 4:  # (B, H, W, C) in memory, (B, C, H, W) to PyTorch
        values = values.permute(0, 3, 1, 2)
        norm_type = torch.nn.BatchNorm2d
    else:
        norm_type = torch.nn.BatchNorm1d
    norms = torch.nn.ModuleList(
        norm_type(values.shape[1], momentum=0.01) for _ in range(2)
    )
    if torch.cuda.is_available():
        values, norms = values.cuda(), norms.cuda()
    cotangent = torch.randn_like(values)
    values.requires_grad_(mode != "forward")

    def run() -> None:
        with torch.set_grad_enabled(mode != "forward"):
            halves = torch.chunk(values, 2)
            y = torch.cat(
                [norm(half) for norm, half in zip(norms, halves, strict=True)]
            )
            if mode != "forward":
                torch.autograd.grad(y, [values, *norms.parameters()], cotangent)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return Candidate(run, (math.nan,) * 3)


def cost(compiled: Any) -> tuple[float, float, float]:
    """Returns bytes accessed, operations and temporary bytes of a program."""
    analysis = compiled.cost_analysis()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return analysis["bytes accessed"], analysis["flops"], temporary


def norm_shapes(batch: int, image_size: tuple[int, int]) -> dict[Shape, int]:
    """Counts the normalizations of a ResNet-50 by the shape of their input."""
    shapes: collections.Counter[Shape] = collections.Counter()

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, ModalityBatchNorm):
            shapes[args[0].shape] += 1
        return call(*args, **kwargs)

    model = ReID(num_identities=395, image_size=image_size)
    images = jax.ShapeDtypeStruct((batch, *image_size, 3), jnp.float32)
    modality = jax.ShapeDtypeStruct((batch,), jnp.int32)
    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda x, m: model.init(jax.random.key(0), x, m, train=True),
            images,
            modality,
        )
    return dict(shapes)


def in_turn(candidates: dict[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Returns seconds per candidate and round, after one round that does not count.

    A turn is as many calls as take 20 ms, because a single short call would measure how
    long the processor takes to wake up. Every other round runs in reverse order.
    """
    for candidate in candidates.values():
        candidate.run()
    start = time.perf_counter()
    candidates[REFERENCE].run()
    calls = max(1, round(0.02 / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(rounds + 1):
        order = list(candidates.items())
        for name, candidate in order if index % 2 else order[::-1]:
            start = time.perf_counter()
            for _ in range(calls):
                candidate.run()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: values[1:] for name, values in seconds.items()}


def compare_layers(
    shapes: dict[Shape, int], dtype: jnp.dtype, mode: str, rounds: int
) -> None:
    """Prints the cost of all normalizations of the network, and of ours by shape."""
    seconds: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(rounds))
    costs: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(3))
    by_shape = []
    for shape, count in track(shapes.items(), f"{dtype} {mode}"):
        x = jax.random.normal(jax.random.key(0), shape, dtype)
        candidates = {
            name: flax_candidate(layer, x, mode)
            for name, layer in flax_forms(dtype).items()
        }
        if importlib.util.find_spec("torch"):
            candidates["PyTorch, split"] = torch_candidate(x, mode)
        measured = in_turn(candidates, rounds)
        for name, candidate in candidates.items():
            seconds[name] += count * np.array(measured[name])
            read, operations, temporary = candidate.cost
            costs[name][:2] += count * read, count * operations
            # NaN where unknown
            costs[name][2] = np.maximum(costs[name][2], temporary)
        by_shape.append(
            [
                "×".join(map(str, shape)),
                count,
                ratio(measured[OURS], measured[REFERENCE]),
                f"{candidates[OURS].cost[0] / candidates[REFERENCE].cost[0]:.2f}",
            ]
        )

    print(f"\n### {dtype}, {mode}: all {sum(shapes.values())} normalizations")
    print_table(
        f"form|time, ms|time / {REFERENCE}|bytes accessed, GB|bytes / {REFERENCE}"
        "|operations, G|largest temporary, MB",
        (
            [
                name,
                f"{1e3 * np.median(seconds[name]):.0f}",
                ratio(seconds[name].tolist(), seconds[REFERENCE].tolist()),
                f"{read / 1e9:.2f}",
                f"{read / costs[REFERENCE][0]:.2f}",
                f"{operations / 1e9:.1f}",
                f"{temporary / 1e6:.1f}",
            ]
            for name, (read, operations, temporary) in costs.items()
        ),
    )
    print_table(f"input|layers|time / {REFERENCE}|bytes / {REFERENCE}", by_shape)


def compare_tiny_networks(dtype: jnp.dtype, rounds: int) -> None:
    """Prints the cost of each form in a network whose layers have little work."""
    x = jax.random.normal(jax.random.key(0), (4, 64, 32, 3), dtype)
    plain = ResNet(depth=18, width=0.25, norm="bn", dtype=dtype)
    forms = {
        OURS: plain.clone(norm="mbn"),
        IN_CONTEXT: InContext(plain),
        REFERENCE: plain,
    }
    rows = []
    for mode in MODES:
        candidates = {
            name: flax_candidate(network, x, mode, train=True)
            for name, network in forms.items()
        }
        measured = in_turn(candidates, rounds)
        rows += [
            [
                name,
                mode,
                f"{1e3 * statistics.median(seconds):.2f}",
                ratio(seconds, measured[REFERENCE]),
                ratio(seconds, measured[OURS]),
            ]
            for name, seconds in measured.items()
        ]
    print(f"\n### {dtype}: ResNet-18 of a quarter of the width, 4 images of 64×32")
    print_table(f"form|mode|time, ms|time / {REFERENCE}|time / {OURS}", rows)


def main() -> None:
    """Measures according to the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--height", type=int, default=288, help="pixels (default 288)")
    parser.add_argument("--width", type=int, default=144, help="pixels (default 144)")
    parser.add_argument("--rounds", type=int, default=11, help="counted (default 11)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=["float32", "bfloat16"],
        help="dtypes of the computation (default both)",
    )
    flags = parser.parse_args()
    if flags.batch < 2 or flags.batch % 2:
        parser.error(f"--batch is {flags.batch}, expected an even number")
    keep_freed_memory()
    image_size = flags.height, flags.width
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else device.device_kind
    print(
        f"{machine_line('jax', device=accelerator)}, ResNet-50, {flags.batch} images "
        f"of {flags.height}×{flags.width}, {flags.rounds} rounds, median (range)"
    )
    for name in flags.dtypes:
        dtype = jnp.dtype(name)
        for mode in MODES:
            compare_layers(
                norm_shapes(flags.batch, image_size), dtype, mode, flags.rounds
            )
        compare_tiny_networks(dtype, flags.rounds)


if __name__ == "__main__":
    main()
