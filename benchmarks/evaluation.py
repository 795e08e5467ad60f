"""The evaluation: SYSU-MM01 trials against a NumPy loop, and growth with the gallery.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --shots=10 --rounds=3
    python -m benchmarks.evaluation --growth

The first two evaluate ten trials of the shape of SYSU-MM01 with `retrieval_metrics` and
with a plain loop over queries, in turn, and check that the figures are the same. The
last evaluates random features against ever larger galleries, each in a process of its
own, of which it reports the peak of the memory. Labels and distances are made up; no
data set is needed. All print Markdown; docs/benchmarks.md keeps what we measured.
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

import numpy as np

from benchmarks.tables import machine_line
from mbn_jax.data.sources import sysu_mm01
from mbn_jax.evaluation import every_pair, feature_metrics, retrieval_metrics

NUM_TRIALS = 10
NUM_IDENTITIES = 96
# How many of the test identities each visible camera saw: 301 pairs in all.
SEEN_BY_CAMERA = {1: 56, 2: 56, 4: 94, 5: 95}
NUM_QUERIES = {3: 1883, 6: 1920}
REPORTED = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
DIMENSIONS = 256


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
    """The figures of all-search by NumPy, one query after the other."""
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


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(shots: int, rounds: int) -> None:
    """Prints the time of ten trials, ours and the loop's, and checks the figures."""
    labels = sysu_labels(shots)
    shape = len(labels.query_ids), len(labels.gallery_ids)
    rng = np.random.default_rng(1)
    trials = [rng.random(shape, np.float32) for _ in range(NUM_TRIALS)]
    protocol = sysu_mm01.protocol("all", shots)

    def ours(distances: np.ndarray) -> dict[str, Any]:
        return retrieval_metrics(distances, *labels, protocol=protocol)

    first_call = seconds(lambda: ours(trials[0]))
    for distances in trials[:2]:
        found, expected = ours(distances), plain_loop(distances, labels)
        for key in REPORTED:
            np.testing.assert_allclose(found[key], expected[key], atol=1e-9)

    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(seconds(lambda: [ours(distances) for distances in trials]))
        theirs.append(
            seconds(lambda: [plain_loop(distances, labels) for distances in trials])
        )
    ratios = [loop / own for own, loop in zip(mine, theirs, strict=True)]
    print(f"\n{NUM_TRIALS} trials of {shape[0]:,} × {shape[1]:,}, {rounds} rounds\n")
    print("| | time, ms (range) | per query, µs |")
    print("|---|---|---|")
    for name, times in (("`retrieval_metrics`", mine), ("NumPy loop", theirs)):
        median = statistics.median(times)
        print(
            f"| {name} | {1e3 * median:.0f} "
            f"({1e3 * min(times):.0f}–{1e3 * max(times):.0f}) "
            f"| {1e6 * median / NUM_TRIALS / shape[0]:.2f} |"
        )
    print(
        f"\nThe figures are the same. Ratio of times, round by round: "
        f"{statistics.median(ratios):.0f} ({min(ratios):.0f}–{max(ratios):.0f}). "
        f"The first call, which compiles, took {first_call:.2f} s."
    )


def evaluate_random_features(num_queries: int, gallery_size: int) -> dict[str, float]:
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

    def run() -> None:
        feature_metrics(
            query,
            gallery,
            query_ids,
            gallery_ids,
            np.zeros(num_queries, int),
            np.ones(gallery_size, int),
            protocol=every_pair()[0],
        )

    # Kilobytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    first, second = seconds(run), seconds(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"first": first, "second": second, "before": before, "peak": peak}


def show_growth(sizes: list[int], most_queries: int) -> None:
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
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout)
        pairs = num_queries * gallery_size
        print(
            f"| {num_queries:,} × {gallery_size:,} | {found['second']:.2f} "
            f"| {1e9 * found['second'] / pairs:.1f} | {found['first']:.2f} "
            f"| {found['before']:.0f} | {found['peak']:.0f} | {pairs / 2**18:.0f} |",
            flush=True,
        )


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
    parser.add_argument("--one", help=argparse.SUPPRESS)  # of --growth, as JSON
    flags = parser.parse_args()
    if flags.one:
        num_queries, gallery_size = map(int, flags.one.split("x"))
        print(json.dumps(evaluate_random_features(num_queries, gallery_size)))
        return
    print(machine_line("jax", "numpy"))
    if flags.growth:
        show_growth(flags.sizes, flags.queries)
    else:
        compare(flags.shots, flags.rounds)


if __name__ == "__main__":
    main()
