"""What crosses between devices in a training step, and what that costs as they grow.

    python -m benchmarks.scaling collectives
    python -m benchmarks.scaling collectives --depth=50 --devices 8
    python -m benchmarks.scaling batch
    python -m benchmarks.scaling model
    python -m benchmarks.scaling recipes

`collectives` counts in compiled programs of `make_train_step` on CPU devices: of the
quick configuration, with the loss of a step, or of SYSU-MM01's (--depth=50), compiled
only. `batch` times ResNet-50 on one CPU device. `model` computes a step on 8 to 512
accelerators; it measures nothing, nor does `recipes`, which computes the time of the
recipes on one. docs/scaling.md and docs/recipes.md keep the tables that they print.
"""

import argparse
import collections
import itertools
import math
import re
import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.tables import machine_line, print_table, spread
from mbn_jax.mesh import make_mesh, replicated, shard
from mbn_jax.training import recipes, step
from mbn_jax.training.config import default_config
from mbn_jax.training.state import init_state, make_model, make_optimizer

NORMS, BATCH = ("mbn", "bn"), 64
WAYS = ("jit", "shard_map")  # pmap: the program of shard_map, see docs/scaling.md
IDENTITIES = {18: 64, 50: 395}

# `%name = shape kind(…)`; of a pair -start and -done the start counts.
COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?\S+ = (?P<shape>.*?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?P<start>-start)?\("
)
ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) .*\{$")
LOOP = re.compile(r" while\(.*body=%?([^\s,]+).*known_trip_count\W+n\W+(\d+)")
# In the name of an operation: a kernel, or a sum outside of what is differentiated.
GRADIENT = re.compile(r"conv|classifier|shard_map/\(?psum")
BOTH = "statistics, backward, with gradients"
STATISTICS = "statistics, forward", "statistics, backward"
KINDS = "all-reduce", "all-gather", "reduce-scatter"
PLACES = *STATISTICS, BOTH, "pairwise loss", "gradients", "scalars"


class Collective(NamedTuple):
    """An instruction that communicates.

    Attributes:
      kind: "all-reduce" and so on.
      place: of `PLACES`.
      size: bytes of the whole array: what an all-reduce or a reduce-scatter takes in,
        what an all-gather gives out.
      times: how often a step executes it.
    """

    kind: str
    place: str
    size: int
    times: int


def ring(kind: str, devices: int) -> float:
    """Bytes that each device of a ring sends, over the bytes of the whole array."""
    return (2 if kind == "all-reduce" else 1) * (devices - 1) / devices


def batch_of(config: ConfigDict, size: int) -> dict[str, np.ndarray]:
    """Random images, the modalities in halves, four images of an identity in each."""
    shape = (size, *config.data.image_size, 3)
    row = np.arange(size, dtype=np.int32)
    return {
        "image": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        "identity": row % (size // 2) // 4,
        "modality": row // (size // 2),
        "camera": np.zeros_like(row),
    }


def prepare(config: ConfigDict, num_devices: int) -> tuple[Any, Any, Any]:
    """The mesh, the function that makes the state, and the training step."""
    mesh = make_mesh(num_devices)
    model = make_model(config, IDENTITIES[config.model.depth])
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    init = partial(init_state, model, optimizer, config.seed, mesh)
    return mesh, init, step.make_train_step(model, optimizer, config, mesh)


def collectives(text: str, devices: int) -> list[Collective]:
    """Those of a compiled program; the body of a loop counts as often as it runs."""
    found: list[tuple[str, str, str, int]] = []
    loops: list[tuple[str, str, int]] = []
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match[1]
        if match := LOOP.search(line):
            loops.append((computation, match[1], int(match[2])))
        if match := COLLECTIVE.match(line):
            sizes = [
                math.prod(map(int, filter(None, dims.split(",")))) * int(bits or 8) // 8
                for bits, dims in ARRAY.findall(match["shape"])
            ]
            if match["start"] and match["kind"] != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # operands come before results
            size = sum(sizes) * (devices if match["kind"] == "reduce-scatter" else 1)
            operation = line.partition('op_name="')[2].partition('"')[0]
            where = place(operation, size)
            found.append((computation, match["kind"], where, size))
    times: dict[str, int] = collections.defaultdict(lambda: 1)
    for outer, body, trips in reversed(loops):  # callers stand after what they call
        times[body] = times[outer] * trips
    return [
        Collective(kind, where, size, times[inside])
        for inside, kind, where, size in found
    ]


def place(operation: str, size: int) -> str:
    """What a collective is for, by the operations that it was made from."""
    if GRADIENT.search(operation):
        return BOTH if "psum:" in operation and "norm" in operation else "gradients"
    for part in operation.split(":"):  # several may have been combined
        if "norm" in part or "neck" in part:
            return STATISTICS["transpose" in part]
    return "pairwise loss" if size > 64 else "scalars"


def count(flags: argparse.Namespace) -> None:
    """Prints collectives by norm, way and number of devices, and those of most."""
    most, by_place, rows = max(flags.devices), {}, []
    for norm, n, way in itertools.product(NORMS, flags.devices, WAYS):
        large = flags.depth == 50
        config = resnet50_config() if large else default_config()
        config.model.norm, config.parallelism = norm, way
        config.batch.accumulation_steps = flags.parts
        config.model.remat = flags.remat
        mesh, init, train_step = prepare(config, n)
        batch = shard(mesh, batch_of(config, BATCH))
        placed = partial(jax.ShapeDtypeStruct.update, sharding=replicated(mesh))
        state = jax.tree.map(placed, jax.eval_shape(init))
        # What is counted does not depend on how well the machine code is optimized.
        quickly: Any = {"xla_backend_optimization_level": 0}
        compiled = train_step.lower(state, batch).compile(quickly)
        found = collectives(compiled.as_text(), n)
        loss = "–" if large else f"{compiled(init(), batch)[1]['loss']:.6f}"
        columns = [number_and_bytes([c for c in found if c.kind == k]) for k in KINDS]
        columns.append(number_and_bytes([c for c in found if c.kind not in KINDS]))
        sent = sum(ring(c.kind, n) * c.size * c.times for c in found)
        rows.append([norm, way, n, *columns, f"{sent / 1e3:,.1f}", loss])
        if n == most:
            by_place[f"{norm}, {way}"] = found
    print_table(
        "norm|way|devices|all-reduces|all-gathers|reduce-scatters|others"
        "|a device sends, kB|loss of a step",
        rows,
    )
    print_table(
        "|".join([f"on {most} devices", *by_place]),
        (
            [
                where,
                *(
                    number_and_bytes([c for c in found if c.place == where])
                    for found in by_place.values()
                ),
            ]
            for where in PLACES
        ),
    )


def number_and_bytes(those: list[Collective]) -> str:
    """How many of them a step executes, and the bytes of their arrays."""
    size = sum(c.size * c.times for c in those)
    return f"{sum(c.times for c in those)}: {size / 1e3:,.1f} kB" if those else "0"


def resnet50_config() -> ConfigDict:
    """AGW's training of a plain ResNet-50: one stem, no non-local blocks, the mean."""
    config = recipes.agw("sysu_mm01", "mbn")
    config.model.stem, config.model.pooling = "shared", "average"
    config.model.non_local = (0, 0, 0, 0)
    return config


def time_batches(flags: argparse.Namespace) -> None:
    """Prints the time of a step of ResNet-50 with MBN, one device, growing batches."""
    config = resnet50_config()
    mesh, init, train_step = prepare(config, 1)
    state, programs = init(), {}
    for size in flags.batches:
        batch = shard(mesh, batch_of(config, size))
        programs[size] = train_step.lower(state, batch).compile(), batch
    seconds: dict[int, list[float]] = collections.defaultdict(list)
    for _ in range(flags.rounds + 1):
        for size, (compiled, batch) in programs.items():
            start = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch))
            seconds[size].append(time.perf_counter() - start)
    rows = []
    for size, (compiled, _) in programs.items():
        counted = seconds[size][1:]
        cost = compiled.cost_analysis()
        held = compiled.memory_analysis().temp_size_in_bytes
        numbers = (
            size / statistics.median(counted),
            cost["flops"] / 1e12,
            cost["bytes accessed"] / 1e9,
            held / 1e9,
        )
        rows.append([size, spread(counted), *(f"{n:.3g}" for n in numbers)])
    print_table("images|step, s|images/s|TFLOP|accessed, GB|held, GB", rows)


def nccl_latency(devices: int) -> float:
    """NCCL's estimate, in s, of a small all-reduce on nodes of eight: tree, LL."""
    return 6.8e-6 + 2 * (7 * 0.6e-6 + math.log2(devices // 8) * 5.0e-6)


class Accelerator(NamedTuple):
    """Published figures in FLOP/s, bytes/s, s; their sources are in docs/scaling.md."""

    flops: float  # of convolutions in float32 as JAX computes them by default
    exact_flops: float  # of a matrix product in full float32 precision
    memory: float  # bandwidth
    network: dict[int, tuple[float, float]]  # devices: latency, bandwidth of a ring


ACCELERATORS = {
    # TF32. 370 GB/s is what NCCL gets of NVLink; eight cards of 50 GB/s join nodes.
    "H100": Accelerator(
        494.7e12, 66.9e12, 3.35e12, {n: (nccl_latency(n), 370e9) for n in (8, 64, 512)}
    ),
    # bfloat16, six passes for float32. 1 µs a hop, there and back along both axes of
    # 2×4, 8×8, 16×16; 45 GB/s a link; 16×16 is a torus: half as far, twice as wide.
    "TPU v5e": Accelerator(
        197e12, 33e12, 819e9, {8: (8e-6, 90e9), 64: (28e-6, 90e9), 256: (32e-6, 180e9)}
    ),
}
# SYSU-MM01's ResNet-50, float32: an image, a step without; a line through `batch`.
FLOPS, BYTES, BYTES_OF_STEP = 29.8e9, 1.06e9, 1.9e9
LAYERS, CHANNELS, FEATURES, PARAMETERS = 54, 28_608, 2048, 24_319_040
# All-reduces a layer, and their bytes a channel, under jit.
PER_LAYER = {"mbn": (2 + 1, (2 + 3) * 2 * 4 + 4 * 4), "bn": (1 + 1, (2 + 2) * 4)}


def compute_growth(flags: argparse.Namespace) -> None:
    """Prints computed times of the parts of a step, as if none overlapped another."""
    for each in flags.per_device:
        rows = []
        for name, chip in ACCELERATORS.items():
            for n, (latency, bandwidth) in chip.network.items():
                around = ring("all-reduce", n) / bandwidth  # s a byte
                mbn, bn = (
                    LAYERS * number * latency + CHANNELS * size * around
                    for number, size in PER_LAYER.values()
                )
                gradients = latency + 4 * PARAMETERS * around
                # Gathered, and their gradient reduced.
                features = 2 * latency + 1.5 * 4 * FEATURES * each * n * around
                moved = (BYTES_OF_STEP + each * BYTES) / chip.memory
                work = max(each * FLOPS / chip.flops, moved)
                # The product of all pairs, and two for its gradients.
                pairs = 6 * FEATURES * each * each * n / chip.exact_flops
                talk = mbn + gradients + features
                whole = work + talk + pairs
                parts = [work, mbn, bn, gradients, features, pairs, whole]
                columns = [f"{1e3 * t:.2f}" for t in parts]
                rows.append([name, n, *columns, f"{talk / whole:.0%}"])
        print(f"\n### {each} images a device: ms")
        print_table(
            "accelerator|devices|forward and backward|statistics, MBN|of BN|gradients"
            "|features|distances|sum, MBN|communication",
            rows,
        )


def compute_recipes(flags: argparse.Namespace) -> None:
    """Prints how long the recipes compute on one H100 whose memory never waits."""
    chip = ACCELERATORS["H100"]
    synthetic = ("synthetic_vireid/nir", "synthetic_vireid/thermal")
    datasets = ("sysu_mm01", "regdb", "llcm", *synthetic)
    rows = []
    for make, norm in ((recipes.agw, "bn"), (recipes.agw, "mbn"), (recipes.caj, "mbn")):
        config = make("sysu_mm01", norm)
        mesh, init, train_step = prepare(config, 1)
        batch = shard(mesh, batch_of(config, BATCH))
        cost = train_step.lower(init(), batch).compile().cost_analysis()
        flops, moved = cost["flops"], cost["bytes accessed"]
        seconds = max(flops / chip.flops, moved / chip.memory)
        columns = [
            f"{make.__name__}, {norm}",
            f"{flops / 1e12:.2f}",
            f"{moved / 1e9:.0f}",
            f"{1e3 * seconds:.0f}",
        ]
        for dataset in datasets:
            split = "regdb/split1" if dataset == "regdb" else dataset
            minutes = make(split, norm).num_steps * seconds / 60
            columns.append(f"{minutes:.1f} min")
        rows.append(columns)
    titles = "recipe", "TFLOP", "accessed, GB", "step, ms", *datasets
    print_table("|".join(titles), rows)


def main() -> None:
    """Prints what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(required=True)
    add = modes.add_parser("collectives", help="count them in compiled programs")
    add.set_defaults(run=count)
    add.add_argument("--depth", type=int, default=18, choices=list(IDENTITIES))
    add.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    add.add_argument("--parts", type=int, default=1, help="accumulation_steps")
    add.add_argument("--remat", action="store_true", help="model.remat")
    add = modes.add_parser("batch", help="time steps of growing batches")
    add.set_defaults(run=time_batches)
    add.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32])
    add.add_argument("--rounds", type=int, default=3, help="counted (default 3)")
    add = modes.add_parser("model", help="compute a step on many accelerators")
    add.set_defaults(run=compute_growth)
    add.add_argument("--per_device", type=int, nargs="+", default=[64, 8, 1])
    add = modes.add_parser("recipes", help="compute the time of the recipes on an H100")
    add.set_defaults(run=compute_recipes)
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(getattr(flags, "devices", [1])))
    print(machine_line("jax", "flax"))
    flags.run(flags)


if __name__ == "__main__":
    main()
