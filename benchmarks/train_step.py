"""A training step against the same step in PyTorch.

    python -m benchmarks.train_step --batch=16
    python -m benchmarks.train_step --batch=16 --options
    python -m benchmarks.train_step --network=quick

A ResNet-50 with last stride 1 and SGD with Nesterov momentum, or the quick run's
ResNet-18 of a quarter of the width with AdamW; identity and weighted regularized
triplet loss and weight decay, from uint8 images in memory to updated weights. The first
compares with PyTorch, if it is installed, and measures compilation; the second measures
rematerialization and accumulation; the last compares the small network. All print
Markdown tables; docs/benchmarks.md has those that we measured.
"""

import argparse
import contextlib
import importlib.util
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import turns
from benchmarks.step_candidates import NETWORKS, peer_values
from benchmarks.tables import machine_line, print_table, ratio, spread, track

SCRIPT = "benchmarks.step_candidates"

OURS = "ours, MBN"

# What `step_candidates.py` takes beyond the sizes, by the names of the tables.
COMPARED: dict[str, dict[str, Any]] = {
    OURS: {},
    "ours, BN": {"config": {"model.norm": "bn"}},
    "ours, MBN, augmented": {"augmented": True},
    "PyTorch, BN, contiguous": {"torch": {"channels_last": False, "compiled": False}},
    "PyTorch, BN, channels last": {"torch": {"channels_last": True, "compiled": False}},
    "PyTorch, BN, torch.compile": {"torch": {"channels_last": True, "compiled": True}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "remat": {"config": {"model.remat": True}},
    "accumulation, 2 parts": {"config": {"batch.accumulation_steps": 2}},
    "accumulation, 4 parts": {"config": {"batch.accumulation_steps": 4}},
    "remat, 4 parts": {"config": {"model.remat": True, "batch.accumulation_steps": 4}},
}


def measure(
    candidates: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, Any],
    rounds: int,
    steps: int,
    environment: Mapping[str, str],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[turns.Turn]]]:
    """Facts about all candidates, and their turns, round by round."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in track(candidates, "compiling"):
            worker = turns.Worker(SCRIPT, {**sizes, **candidates[name]}, environment)
            workers[name] = stack.enter_context(worker)
        parameters = {name: w.facts["parameters"] for name, w in workers.items()}
        if len(set(parameters.values())) > 1:
            counts = ", ".join(f"{n:,} ({name})" for name, n in parameters.items())
            raise SystemExit(
                "error: the candidates are not one network, since their numbers of "
                f"parameters differ: {counts}; make benchmarks/torch_resnet.py follow "
                "mbn_jax/models."
            )
        taken: dict[str, list[turns.Turn]] = {name: [] for name in workers}
        for _ in track(range(rounds), "rounds"):
            for name, worker in workers.items():
                taken[name].append(worker.turn(steps))
        return {name: worker.facts for name, worker in workers.items()}, taken


def seconds_of(taken: Sequence[turns.Turn]) -> list[float]:
    """Seconds of a step in every round."""
    return [turn.seconds for turn in taken]


def compare(
    sizes: Mapping[str, Any], rounds: int, steps: int, names: list[str]
) -> None:
    """Prints the step against PyTorch's."""
    candidates = {name: COMPARED[name] for name in names}
    for name, form in candidates.items():
        if "torch" in form:
            candidates[name] = {"torch": {**form["torch"], **peer_values(sizes)}}
    # JAX takes three quarters of a GPU for itself by default.
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.8 / len(candidates):.2f}"}
    facts, taken = measure(candidates, sizes, rounds, steps, environment)
    seconds = {name: seconds_of(turns_taken) for name, turns_taken in taken.items()}
    peers = [name for name in candidates if name.startswith("PyTorch")] or candidates
    reference = min(peers, key=lambda name: statistics.median(seconds[name]))
    print_table(
        f"step|time, ms|images/s|images/s / {reference}|peak memory, MB"
        "|operations by XLA, G",
        (
            [
                name,
                spread(seconds[name], 1, 1e-3),
                f"{sizes['batch'] / statistics.median(seconds[name]):.2f}",
                ratio(seconds[reference], seconds[name]),
                f"{taken[name][-1].peak_memory / 1e6:.0f}",
                f"{facts[name].get('operations', math.nan) / 1e9:.1f}",
            ]
            for name in candidates
        ),
    )


def compare_compilation(sizes: Mapping[str, Any]) -> None:
    """Prints how long compiling takes a fresh process, without and with a cache."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {"JAX_COMPILATION_CACHE_DIR": cache}
        for name in ("cold", "from the persistent cache"):
            facts, _ = measure({OURS: {}}, sizes, 0, 1, environment)
            seconds = [facts[OURS][key] for key in ("tracing", "compiling")]
            rows.append([name, *(f"{value:.1f}" for value in seconds)])
    print_table("compiling our step|tracing, s|compiling or loading, s", rows)


def compare_options(sizes: Mapping[str, Any], rounds: int, steps: int) -> None:
    """Prints what rematerialization and accumulation cost and save."""
    facts, taken = measure(OPTIONS, sizes, rounds, steps, {})
    plain = seconds_of(taken["plain"])
    print_table(
        "option|time, ms|time / plain|temporary memory, MB|temporary / plain"
        "|peak memory, MB",
        (
            [
                name,
                spread(seconds_of(taken[name]), 1, 1e-3),
                ratio(seconds_of(taken[name]), plain),
                f"{facts[name]['temporary'] / 1e6:.0f}",
                f"{facts[name]['temporary'] / facts['plain']['temporary']:.2f}",
                f"{taken[name][-1].peak_memory / 1e6:.0f}",
            ]
            for name in OPTIONS
        ),
    )


def main() -> None:
    """Measures what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--network", default="resnet50", choices=NETWORKS)
    for key, meaning in (
        ("batch", "images"),
        ("height", "pixels"),
        ("width", "pixels"),
        ("steps", "counted in each turn"),
    ):
        defaults = ", ".join(
            f"{getattr(network, key)} for {name}" for name, network in NETWORKS.items()
        )
        add(f"--{key}", type=int, help=f"{meaning} (default {defaults})")
    add("--rounds", type=int, default=5, help="counted (default 5)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--only", nargs="+", choices=COMPARED, help="these candidates, instead of all")
    add("--options", action="store_true", help="rematerialization and accumulation")
    flags = parser.parse_args()
    network = NETWORKS[flags.network]
    for key in ("batch", "height", "width", "steps"):
        if getattr(flags, key) is None:
            setattr(flags, key, getattr(network, key))
    multiple = 4 * 2 * network.num_images  # four parts of whole identities
    if flags.batch < multiple or flags.batch % multiple:
        parser.error(f"--batch is {flags.batch}, expected a multiple of {multiple}")
    keys = ("network", "batch", "height", "width", "dtype")
    sizes = {key: getattr(flags, key) for key in keys}
    packages = ["jax"] + ["torch"] * bool(importlib.util.find_spec("torch"))
    print(
        f"{machine_line(*packages)}, {network.title}, {flags.batch} images of "
        f"{flags.height}×{flags.width}, {flags.dtype}, {flags.rounds} rounds of "
        f"{flags.steps} steps, median (range)"
    )
    if flags.options:
        compare_options(sizes, flags.rounds, flags.steps)
    else:
        names = [name for name in COMPARED if name.startswith("ours")]
        if importlib.util.find_spec("torch"):
            names = list(COMPARED)
        compare(sizes, flags.rounds, flags.steps, flags.only or names)
        compare_compilation(sizes)


if __name__ == "__main__":
    main()
