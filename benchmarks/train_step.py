"""A training step against the same step in PyTorch.

    python -m benchmarks.train_step --batch=16
    python -m benchmarks.train_step --batch=16 --options
    python -m benchmarks.train_step --batch=16 --loop
    python -m benchmarks.train_step --network=quick

A ResNet-50 with last stride 1 and SGD with Nesterov momentum, or the quick run's
ResNet-18 of a quarter of the width with AdamW; identity and weighted regularized
triplet loss and weight decay, from uint8 images in memory to updated weights. The first
compares with PyTorch, where it is installed, and says how long compiling takes; the
second measures rematerialization and accumulation; the third what the training loop
adds to its steps; the last compares the small network. All print Markdown tables;
docs/benchmarks.md keeps those that we measured.
"""

import argparse
import contextlib
import importlib.util
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import rich.progress

from benchmarks import turns
from benchmarks.machine import machine_line
from benchmarks.step_candidates import (
    NETWORKS,
    analytic_operations,
    make_config,
    matrix_peak,
    peer_values,
)

SCRIPT = "benchmarks.step_candidates"
track = partial(rich.progress.track, transient=True, disable=not sys.stderr.isatty())

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


def spread(seconds: list[float]) -> str:
    """Median and range, to a millisecond, or to a tenth of it where that is much."""
    return turns.spread(seconds, 4 if statistics.median(seconds) < 0.1 else 3)


def giga(value: float) -> str:
    """In units of 10⁹, with a decimal where it is small."""
    return f"{value / 1e9:.{1 if value < 1e10 else 0}f}"


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints Markdown."""
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for row in rows:
        print(f"| {' | '.join(row)} |".replace("nan", "–"))


def compare(
    sizes: Mapping[str, Any], rounds: int, steps: int, names: list[str]
) -> None:
    """Prints the step against PyTorch's."""
    peer = peer_values(sizes)
    candidates = {name: COMPARED[name] for name in names}
    for name, form in candidates.items():
        if "torch" in form:
            candidates[name] = {"torch": {**form["torch"], **peer}}
    # JAX takes three quarters of a GPU for itself unless told otherwise.
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.8 / len(candidates):.2f}"}
    facts, taken = measure(candidates, sizes, rounds, steps, environment)
    peaks = [fact["peak"] for fact in facts.values()]
    if not any(fact.get("device") for fact in facts.values()):
        peaks.append(matrix_peak("numpy", sizes["dtype"]))
    operations = analytic_operations(sizes)
    peers = [name for name in candidates if name.startswith("PyTorch")] or candidates
    reference = min(peers, key=lambda name: statistics.median(seconds_of(taken[name])))
    rows = []
    for name, turns_taken in taken.items():
        seconds = seconds_of(turns_taken)
        rate = operations / statistics.median(seconds)
        rows.append(
            [
                name,
                spread(seconds),
                f"{sizes['batch'] / statistics.median(seconds):.2f}",
                turns.ratio(seconds_of(taken[reference]), seconds),
                f"{turns_taken[-1].peak_memory / 1e6:.0f}",
                giga(facts[name].get("operations", math.nan)),
                f"{rate / 1e9:.0f}",
                f"{rate / max(peaks):.0%}",
            ]
        )
    print(
        "\nConvolutions and classifier, forward and gradients: "
        f"{giga(operations)} G operations. Largest rate of a product of matrices: "
        f"{max(peaks) / 1e9:.0f} G/s."
    )
    titles = f"step|time, s|images/s|images/s / {reference}|peak memory, MB"
    titles += "|operations by XLA, G|G operations/s|of the peak"
    print_table(titles.split("|"), rows)


def compare_compilation(sizes: Mapping[str, Any]) -> None:
    """Prints how long compiling takes a fresh process, without and with a cache."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {"JAX_COMPILATION_CACHE_DIR": cache}
        for name in ("cold", "from the persistent cache"):
            facts, _ = measure({OURS: {}}, sizes, 0, 1, environment)
            seconds = [facts[OURS][key] for key in ("tracing", "compiling")]
            rows.append([name, *(f"{value:.1f}" for value in seconds)])
    print_table(["compiling our step", "tracing, s", "compiling or loading, s"], rows)


def compare_options(sizes: Mapping[str, Any], rounds: int, steps: int) -> None:
    """Prints what rematerialization and accumulation cost and save."""
    facts, taken = measure(OPTIONS, sizes, rounds, steps, {})
    rows = [
        [
            name,
            spread(seconds_of(taken[name])),
            turns.ratio(seconds_of(taken[name]), seconds_of(taken["plain"])),
            f"{facts[name]['temporary'] / 1e6:.0f}",
            f"{facts[name]['temporary'] / facts['plain']['temporary']:.2f}",
            f"{taken[name][-1].peak_memory / 1e6:.0f}",
        ]
        for name in OPTIONS
    ]
    titles = "option|time, s|time / plain|temporary memory, MB|temporary / plain"
    titles += "|peak memory, MB"
    print_table(titles.split("|"), rows)


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
    add("--loop", action="store_true", help="the overhead of the training loop")
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
    elif flags.loop:
        from benchmarks.train_loop import compare_loop

        compare_loop(make_config(sizes, {}, augmented=True), flags.rounds)
    else:
        names = [name for name in COMPARED if name.startswith("ours")]
        if importlib.util.find_spec("torch"):
            names = list(COMPARED)
        compare(sizes, flags.rounds, flags.steps, flags.only or names)
        compare_compilation(sizes)


if __name__ == "__main__":
    main()
