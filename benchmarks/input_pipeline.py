"""Reading training batches from a prepared data set, against PIL and NumPy.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --images 1000 10000 --rounds=3

Makes photograph-like JPEG files of 128×64 to 300×150 pixels with a manifest, prepares
them as `python -m mbn_jax prepare` does, and reads them as training does: batches of
64 images in the order of a sampler, decoded and resized to 288×144. The peers read the
same images in the same order from the files. Time and memory of preparing are those of
a fresh process; so are those of opening a data set and reading from it. Prints Markdown
tables; docs/benchmarks.md keeps those that we measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photographs import (
    IMAGES_PER_IDENTITY,
    MANIFEST,
    jpeg,
    write_photographs,
)
from benchmarks.tables import machine_line, print_table, ratio, spread, track
from benchmarks.turns import resident
from mbn_jax.data.dataset import Split, load_split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.sampling import Sampler, make_sampler

DATASET = "photographs"
IMAGE_SIZE = (288, 144)
BATCH = 64
# Different files; a data set of more images has copies of them.
DIFFERENT = 2000
OURS = "`train_batches`"
# Re-identification in PyTorch resizes in one of these ways: the first is that of the
# public code for SYSU-MM01, the second what torchvision does if nothing is said.
PEERS = {
    "PIL + NumPy, Lanczos": Image.Resampling.LANCZOS,
    "PIL + NumPy, bilinear": Image.Resampling.BILINEAR,
}


def prepare_once(root: Path, data_dir: Path) -> dict[str, float]:
    """Prepares a data set; time without imports, and the peak of memory."""
    start = time.perf_counter()
    prepare_data(DATASET, data_dir, manifest=root / MANIFEST)
    return {"preparing": time.perf_counter() - start, "peak": resident("VmHWM")}


def in_fresh_process(*flags: str) -> dict[str, float]:
    """What another process of this program prints in its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.input_pipeline", *flags],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return json.loads(done.stdout.splitlines()[-1])


def training_data(data_dir: Path) -> tuple[Split, Sampler]:
    """The records to read, and the order to read them in."""
    split = load_split(DATASET, "train", data_dir)
    sampler = make_sampler(
        "balanced",
        split.identity,
        split.modality,
        num_identities=8,
        num_images=4,
        seed=0,
    )
    return split, sampler


def peer_batches(
    root: Path,
    split: Split,
    sampler: Sampler,
    numbers: range,
    pool: ThreadPoolExecutor,
    resampling: Image.Resampling,
) -> Iterator[np.ndarray]:
    """What loaders in re-identification do, without augmentation and normalization.

    PIL decodes and resizes outside Python's lock, so that threads are its strongest
    form: worker processes would have to hand eight megabytes a batch back.
    """

    def read(number: int) -> np.ndarray:
        images = []
        for index in sampler.batch(number):
            with Image.open(root / split.name[index]) as image:
                small = image.convert("RGB").resize(IMAGE_SIZE[::-1], resampling)
            images.append(np.array(small))
        return np.stack(images)

    return pool.map(read, numbers)


def compare(
    root: Path, data_dir: Path, rounds: int, batches: int, threads: int
) -> dict[str, list[float]]:
    """Images a second of all loaders in every round, after one that does not count."""
    split, sampler = training_data(data_dir)
    with ThreadPoolExecutor(threads) as pool:

        def ours(numbers: range) -> Iterator[np.ndarray]:
            for batch in train_batches(
                split,
                sampler,
                IMAGE_SIZE,
                start=numbers.start,
                stop=numbers.stop,
                num_threads=threads,
            ):
                yield batch["image"]

        def peer(resampling: Image.Resampling) -> Callable:
            return lambda numbers: peer_batches(
                root, split, sampler, numbers, pool, resampling
            )

        loaders = {OURS: ours, **{name: peer(how) for name, how in PEERS.items()}}
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for i in track(range(rounds + 1), "reading"):
            numbers = range(i * batches, (i + 1) * batches)
            for name, loader in loaders.items():
                start = time.perf_counter()
                for images in loader(numbers):
                    assert images.shape == (BATCH, *IMAGE_SIZE, 3)
                rates[name].append(BATCH * batches / (time.perf_counter() - start))
    return {name: values[1:] for name, values in rates.items()}


def read_once(data_dir: Path, batches: int, threads: int) -> dict[str, float]:
    """Time and memory of opening a data set and of reading from it."""
    import tensorflow_datasets  # noqa: F401  (which is not the opening)

    before = resident("VmRSS")
    start = time.perf_counter()
    split, sampler = training_data(data_dir)
    opened = time.perf_counter()
    after = resident("VmRSS")
    for _ in train_batches(
        split, sampler, IMAGE_SIZE, start=0, stop=batches, num_threads=threads
    ):
        pass
    return {
        "before": before,
        "opening": opened - start,
        "opened": after,
        "rate": BATCH * batches / (time.perf_counter() - opened),
        "peak": resident("VmHWM"),
    }


def print_rates(rates: dict[str, list[float]]) -> None:
    """Prints the comparison."""
    print_table(
        "loader|images/s|`train_batches` / this",
        (
            [name, spread(values, 0), ratio(rates[OURS], values)]
            for name, values in rates.items()
        ),
    )


def print_growth(
    sets: dict[int, Path], prepared: dict[int, dict[str, float]], flags: list[str]
) -> None:
    """Prints what opening and reading costs, for data sets of different size."""
    rows = []
    for count, data_dir in sets.items():
        runs = [in_fresh_process(f"--read={data_dir}", *flags) for _ in range(3)]
        middle = {k: statistics.median(run[k] for run in runs) for k in runs[0]}
        size = sum(path.stat().st_size for path in data_dir.rglob("*array_record*"))
        rows.append(
            [
                f"{count:,}",
                f"{size / 1e6:,.0f}",
                f"{prepared[count]['preparing']:.1f}",
                f"{prepared[count]['peak'] / 2**20:.0f}",
                f"{middle['opening']:.2f}",
                *(f"{middle[k] / 2**20:.0f}" for k in ("before", "opened", "peak")),
                f"{middle['rate']:,.0f}",
            ]
        )
    print_table(
        "images|files, MB|preparing, s|its peak, MB|opening, s|resident before, MB"
        "|when open, MB|peak of reading, MB|images/s",
        rows,
    )


def main() -> None:
    """Measures what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=int,
        default=[5000, 45000],
        help="of the data sets; the last is compared (default 5000 45000)",
    )
    parser.add_argument("--rounds", type=int, default=11, help="counted (default 11)")
    parser.add_argument(
        "--batches", type=int, default=30, help="of 64 images a round (default 30)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="and as many cores (default 2)"
    )
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if min(flags.images) < 8 * IMAGES_PER_IDENTITY:
        parser.error(f"--images needs at least {8 * IMAGES_PER_IDENTITY}: 8 persons")
    if min(flags.rounds, flags.batches, flags.threads) < 1:
        parser.error("--rounds, --batches and --threads must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    if flags.prepare:
        print(json.dumps(prepare_once(*flags.prepare)))
        return
    if flags.read:
        print(json.dumps(read_once(flags.read, flags.batches, flags.threads)))
        return

    print(machine_line("opencv-python-headless", "pillow", "grain", "array_record"))
    rng = np.random.default_rng(0)
    files = [jpeg(rng) for _ in range(DIFFERENT)]
    sizes = np.percentile([len(file) for file in files], [1, 50, 99]) / 1e3
    print(
        f"JPEG files of {sizes[1]:.1f} kB (1 % to 99 %: {sizes[0]:.1f} to"
        f" {sizes[2]:.1f}), {flags.threads} threads, {flags.rounds} rounds of"
        f" {BATCH * flags.batches:,} images, median (range)"
    )
    with tempfile.TemporaryDirectory() as directory:
        sets, prepared = {}, {}
        for count in flags.images:
            root = Path(directory, f"photographs{count}")
            sets[count] = Path(directory, f"data{count}")
            write_photographs(root, files, count)
            prepared[count] = in_fresh_process("--prepare", str(root), str(sets[count]))
        # `root` and `count` are the last ones.
        print_rates(
            compare(root, sets[count], flags.rounds, flags.batches, flags.threads)
        )
        print_growth(
            sets, prepared, [f"--batches={flags.batches}", f"--threads={flags.threads}"]
        )


if __name__ == "__main__":
    main()
