"""The evaluation against a NumPy loop and a sort, and its growth with the gallery.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --shots=10 --rounds=3
    python -m benchmarks.evaluation --growth
    python -m benchmarks.evaluation --growth --sizes=100000 --sort

The first two evaluate ten trials of the shape of SYSU-MM01 with `retrieval_metrics`,
with a sort of chunks of rows, and with a plain loop over queries, in turn, and check
that the metrics are the same. The others evaluate random features against larger and
larger galleries, each in a process of its own, whose peak memory they report; with
--sort the same is done once by sorting. Labels and distances are made up; no data set
is needed. All print Markdown; docs/benchmarks.md keeps what we measured.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.tables import machine_line
from mbn_jax.data.sources import sysu_mm01
from mbn_jax.evaluation import (
    cosine_distances,
    every_pair,
    feature_metrics,
    retrieval_metrics,
)

NUM_TRIALS = 10
NUM_IDENTITIES = 96
# How many of the test identities each visible camera saw: 301 pairs in all.
SEEN_BY_CAMERA = {1: 56, 2: 56, 4: 94, 5: 95}
NUM_QUERIES = {3: 1883, 6: 1920}
REPORTED = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
DIMENSIONS = 256
# Distances in a chunk that is sorted: 16 MiB of float32.
CHUNK = 2**22


class Labels(NamedTuple):
    """In the order of the arguments of `retrieval_metrics`."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray


def sysu_labels(shots: int) -> Labels:
    """Labels of the shape of SYSU-MM01's test, identities and cameras ascending."""
    rng = np.random.default_rng(0)
    pairs = [
        (identity, camera)
        for camera, count in SEEN_BY_CAMERA.items()
        for identity in rng.choice(NUM_IDENTITIES, count, replace=False).tolist()
    ]
    gallery = np.repeat(np.array(sorted(pairs)), shots, axis=0)
    cameras = np.repeat(list(NUM_QUERIES), list(NUM_QUERIES.values()))
    identities = np.sort(rng.integers(NUM_IDENTITIES, size=len(cameras)))
    return Labels(identities, gallery[:, 0], rng.permutation(cameras), gallery[:, 1])


def plain_loop(distances: np.ndarray, labels: Labels) -> dict[str, float]:
    """The metrics of all-search by NumPy, one query after the other."""
    cmc = np.zeros(20)
    precisions, penalties = [], []
    for row, identity, camera in zip(
        distances, labels.query_ids, labels.query_cameras, strict=True
    ):
        order = np.argsort(row, kind="stable")
        if camera == 3:
            order = order[labels.gallery_cameras[order] != 2]
        ranked = labels.gallery_ids[order]
        matches = ranked == identity
        if not matches.any():
            continue
        first = np.sort(np.unique(ranked, return_index=True)[1])
        cmc += np.cumsum(matches[first])[: len(cmc)]
        found_by = np.cumsum(matches)
        ranks = np.flatnonzero(matches) + 1
        precisions.append((found_by[ranks - 1] / ranks).mean())
        penalties.append(len(ranks) / ranks[-1])
    found = {f"rank{k}": float(cmc[k - 1] / len(precisions)) for k in (1, 5, 10, 20)}
    return found | {
        "mAP": float(np.mean(precisions)),
        "mINP": float(np.mean(penalties)),
    }


def sorted_metrics(
    distances_of: Callable[[slice], np.ndarray],
    labels: Labels,
    *,
    by_identity: bool,
) -> dict[str, float]:
    """The same by sorting chunks of rows; camera 3 skips camera 2.

    A distance and its place in the gallery are one integer of 64 bits, which NumPy
    sorts with vector instructions, several times faster than it makes a stable order.
    """
    num_queries, gallery_size = len(labels.query_ids), len(labels.gallery_ids)
    place = np.arange(gallery_size)
    cmc = np.zeros(gallery_size, np.int64)
    precisions, penalties = [], []
    size = max(1, CHUNK // gallery_size)
    for start in range(0, num_queries, size):
        rows = slice(start, start + size)
        cameras = labels.query_cameras[rows, None]
        hidden = (cameras == 3) & (labels.gallery_cameras == 2)
        distances = np.where(hidden, np.float32(np.inf), distances_of(rows))
        bits = distances.view(np.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF  # integers in the order of the numbers
        keys = (bits.astype(np.int64) << 32) | place
        keys.sort(axis=1)
        ranked = labels.gallery_ids[keys & 0xFFFFFFFF]
        num_seen = gallery_size - np.count_nonzero(hidden, axis=1)
        matches = ranked == labels.query_ids[rows, None]
        matches &= place < num_seen[:, None]
        row, column = np.nonzero(matches)
        first = np.unique(row, return_index=True)[1]
        count = np.diff(np.append(first, len(row)))
        nth = np.arange(len(row)) - np.repeat(first, count) + 1
        precisions.append(np.add.reduceat(nth / (column + 1), first) / count)
        penalties.append(count / (column[first + count - 1] + 1))
        rank = column[first]
        if by_identity:
            # The last image written is the first in the row.
            of_identity = np.full((len(ranked), ranked.max() + 1), gallery_size)
            every_row = np.arange(len(ranked))[:, None]
            of_identity[every_row, ranked[:, ::-1].copy()] = place[::-1].copy()
            rank = np.count_nonzero(of_identity[row[first]] < rank[:, None], axis=1)
        cmc += np.bincount(rank, minlength=gallery_size)
    curve = np.cumsum(cmc) / cmc.sum()
    found = {f"rank{k}": float(curve[k - 1]) for k in (1, 5, 10, 20)}
    return found | {
        "mAP": float(np.concatenate(precisions).mean()),
        "mINP": float(np.concatenate(penalties).mean()),
    }


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(shots: int, rounds: int) -> None:
    """Prints the time of ten trials in three ways, and checks the metrics."""
    labels = sysu_labels(shots)
    shape = len(labels.query_ids), len(labels.gallery_ids)
    rng = np.random.default_rng(1)
    trials = [rng.random(shape, np.float32) for _ in range(NUM_TRIALS)]
    protocol = sysu_mm01.protocol("all", shots)
    ways: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
        "`retrieval_metrics`": lambda distances: retrieval_metrics(
            distances, *labels, protocol=protocol
        ),
        "sort": lambda distances: sorted_metrics(
            lambda rows: distances[rows], labels, by_identity=True
        ),
        "NumPy loop": lambda distances: plain_loop(distances, labels),
    }
    ours, *others = ways
    first_call = seconds(lambda: ways[ours](trials[0]))
    for distances in trials[:2]:
        found, *expected = (way(distances) for way in ways.values())
        for key in REPORTED:
            for metrics in expected:
                np.testing.assert_allclose(found[key], metrics[key], atol=1e-9)

    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for distances in trials:
                way(distances)
            times[name].append(time.perf_counter() - start)
    print(f"\n{NUM_TRIALS} trials of {shape[0]:,} × {shape[1]:,}, {rounds} rounds\n")
    print("| | time, ms (range) | per query, µs |")
    print("|---|---|---|")
    for name, of_way in times.items():
        median = statistics.median(of_way)
        print(
            f"| {name} | {1e3 * median:.0f} "
            f"({1e3 * min(of_way):.0f}–{1e3 * max(of_way):.0f}) "
            f"| {1e6 * median / NUM_TRIALS / shape[0]:.2f} |"
        )
    print("\nThe metrics are the same. Ratio of times, round by round:")
    for name in others:
        ratios = [a / b for a, b in zip(times[name], times[ours], strict=True)]
        print(
            f"{name} {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f}–{max(ratios):.1f});"
        )
    print(f"the first call, which compiles, took {first_call:.2f} s.")


def evaluate_random_features(
    num_queries: int, gallery_size: int, by_sort: bool
) -> dict[str, float]:
    """Seconds of a first and a second call, and the peak memory of this process, MiB.

    10 to 40 gallery images of each identity, and queries of the same identities.
    """
    rng = np.random.default_rng(0)
    sizes = rng.integers(10, 41, size=gallery_size // 10)
    gallery_ids = np.repeat(np.arange(len(sizes)), sizes)[:gallery_size]
    query_ids = rng.choice(gallery_ids, num_queries)
    query, gallery = (
        rng.standard_normal((count, DIMENSIONS), np.float32)
        for count in (num_queries, gallery_size)
    )

    cameras = np.zeros(num_queries, int), np.ones(gallery_size, int)
    labels = Labels(query_ids, gallery_ids, *cameras)

    def run() -> dict[str, Any]:
        return feature_metrics(query, gallery, *labels, protocol=every_pair()[0])

    # Kilobytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    first, second = seconds(run), seconds(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found = {"first": first, "second": second, "before": before, "peak": peak}
    if by_sort:
        of_chunk = jax.jit(cosine_distances)
        start = time.perf_counter()
        metrics = sorted_metrics(
            lambda rows: np.asarray(of_chunk(query[rows], gallery)),
            labels,
            by_identity=False,
        )
        found["sort"] = time.perf_counter() - start
        ours = run()
        # Chunks of other sizes have distances with other last digits.
        for key in REPORTED:
            np.testing.assert_allclose(metrics[key], ours[key], atol=1e-4)
    return found


def show_growth(sizes: list[int], most_queries: int, by_sort: bool) -> None:
    """Prints time and memory for ever larger galleries."""
    print(f"\nRandom features of {DIMENSIONS} dimensions, cosine distance\n")
    print(
        "| queries × gallery | time, s | per pair, ns | first call, s "
        "| memory before, MiB | peak, MiB | all distances would be, MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    # A process of its own, as the peak of a process never falls.
    for gallery_size in sizes:
        num_queries = min(gallery_size, most_queries)
        flag = f"--one={num_queries}x{gallery_size}"
        command = [sys.executable, "-m", "benchmarks.evaluation", flag]
        command += ["--sort"] * by_sort
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout)
        pairs = num_queries * gallery_size
        print(
            f"| {num_queries:,} × {gallery_size:,} | {found['second']:.2f} "
            f"| {1e9 * found['second'] / pairs:.1f} | {found['first']:.2f} "
            f"| {found['before']:.0f} | {found['peak']:.0f} | {pairs / 2**18:.0f} |",
            flush=True,
        )
        if by_sort:
            print(f"\nBy sorting: {found['sort']:.2f} s", flush=True)


def main() -> None:
    """Measures what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shots", type=int, default=1, help="of a trial (default 1)")
    parser.add_argument("--rounds", type=int, default=7, help="counted (default 7)")
    parser.add_argument(
        "--growth", action="store_true", help="larger and larger galleries instead"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[1_000, 3_000, 10_000, 30_000, 100_000],
        help="of the galleries (default 1000 3000 10000 30000 100000)",
    )
    parser.add_argument(
        "--queries", type=int, default=10_000, help="at most (default 10000)"
    )
    parser.add_argument(
        "--sort", action="store_true", help="with --growth: by sorting as well"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # of --growth, as JSON
    flags = parser.parse_args()
    if flags.one:
        queries, gallery = map(int, flags.one.split("x"))
        print(json.dumps(evaluate_random_features(queries, gallery, flags.sort)))
        return
    print(machine_line("jax", "numpy"))
    if flags.growth:
        show_growth(flags.sizes, flags.queries, flags.sort)
    else:
        compare(flags.shots, flags.rounds)


if __name__ == "__main__":
    main()
