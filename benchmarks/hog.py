"""How well histograms of oriented gradients retrieve, without any learning.

    python -m benchmarks.hog synthetic_vireid/nir synthetic_vireid/thermal --csv=FILE

A trained network has to beat this baseline if the modalities share edges (Dalal and
Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005). The command
prints a Markdown table with the metrics of HOG and of chance, in percent, and with
--run=WORKDIR those of a run's network before its first step, from its results.json.
docs/study/baselines.csv contains them.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks.tables import machine_line, print_table
from mbn_jax.analysis.ablation import METRICS
from mbn_jax.analysis.ablation_tables import title
from mbn_jax.data.dataset import Split, load_split
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.sources import task_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate, evaluate_chance, l2_normalize
from mbn_jax.evaluation.results import read_results
from mbn_jax.evaluation.table import COLUMNS
from mbn_jax.files import check_writable, write_atomically
from mbn_jax.training.config import default_config
from mbn_jax.training.run_data import scored_protocols

CELL = 8  # pixels of a side
BLOCK = 2  # cells of a side
NUM_BINS = 9  # of 20 degrees
CLIP = 0.2  # of a normalized block
SQUARE = (64, 64)  # (height, width) of images that are not of persons


class Row(NamedTuple):
    """The metrics of one method by one protocol.

    Attributes:
        data: name of the data set.
        method: "HOG", "chance" or "untrained network".
        protocol: its name, as in the file.
        title: of the protocol, as in the table.
        metrics: as `mbn_jax.evaluation.evaluate` returns them for the protocol.
    """

    data: str
    method: str
    protocol: str
    title: str
    metrics: dict[str, Any]


def hog(images: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients of gray images.

    The numerical decisions are those of OpenCV's `HOGDescriptor`, which OpenCV 5 no
    longer contains:

    * Gradients are unsigned, and intensities are not gamma corrected, because a square
      root would not treat an image and its inverse alike.
    * A pixel divides its magnitude linearly between two bins and up to four cells, with
      a Gaussian weight around the center of the block.
    * Blocks overlap by one cell. Each is normalized, clipped at 0.2 and normalized
      again. The constant in the first norm damps blocks without contrast.

    Args:
        images: (N, H, W) uint8, with H and W multiples of 8 and at least 16.

    Returns:
        (N, D) float32 of unit length, zeros for a constant image. D is 36 times the
        number of blocks, (H / 8 - 1) (W / 8 - 1).
    """
    return l2_normalize(np.stack([_blocks(image) for image in images]))


def _blocks(image: np.ndarray) -> np.ndarray:
    """The normalized histograms of all blocks of one (H, W) image, flat."""
    side = BLOCK * CELL
    windows = np.lib.stride_tricks.sliding_window_view(
        _orientations(image), (side, side), axis=(0, 1)
    )[::CELL, ::CELL]
    # (rows, columns, bins, cell row, cell column)
    histograms = np.tensordot(windows, _pixel_weights(), axes=([3, 4], [2, 3]))
    blocks = histograms.reshape(-1, NUM_BINS * BLOCK**2)
    length = np.linalg.norm(blocks, axis=1, keepdims=True)
    clipped = np.minimum(blocks / (length + 0.1 * blocks.shape[1]), CLIP)
    length = np.linalg.norm(clipped, axis=1, keepdims=True)
    return (clipped / (length + 1e-3)).ravel()


def _orientations(image: np.ndarray) -> np.ndarray:
    """(H, W, bins) gradient magnitudes, each divided between the two nearest bins."""
    padded = np.pad(image.astype(np.float32), 1, mode="reflect")
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    # In bins, counted from the center of the first one.
    place = np.arctan2(dy, dx) * (NUM_BINS / np.pi) - 0.5
    lower = np.floor(place)
    share = (place - lower)[..., None]
    bins = np.arange(NUM_BINS)
    is_lower = bins == (lower % NUM_BINS)[..., None]
    is_upper = bins == ((lower + 1) % NUM_BINS)[..., None]
    return np.hypot(dx, dy)[..., None] * (is_lower * (1 - share) + is_upper * share)


def _pixel_weights() -> np.ndarray:
    """Weights of pixels in the cells of a block, (cell row, column, row, column)."""
    pixels = np.arange(BLOCK * CELL)
    centers = CELL * (np.arange(BLOCK)[:, None] + 0.5) - 0.5
    linear = np.maximum(0, 1 - np.abs(pixels - centers) / CELL)
    # OpenCV's Gaussian is half a pixel off the center, and so is this one.
    half = BLOCK * CELL / 2
    gaussian = np.exp(-((pixels - half) ** 2) / (2 * (half / 2) ** 2))
    weights = (linear * gaussian).astype(np.float32)
    return np.einsum("ai,bj->abij", weights, weights)


def default_size(dataset: str) -> tuple[int, int]:
    """(height, width) for a data set: upright for persons, else square."""
    if "re-identification" in task_of(dataset):
        height, width = default_config().data.image_size
        return height, width
    return SQUARE


def features_of(split: Split, image_size: tuple[int, int]) -> np.ndarray:
    """HOG features of all images of a split, (N, D) float32."""
    images = load_images(split, np.arange(len(split)), image_size)
    return hog(np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]))


def rows_of(
    dataset: str, data_dir: str, image_size: tuple[int, int] | None = None
) -> Iterator[Row]:
    """The rows of a data set's test split: for each protocol HOG, then chance."""
    split = load_split(dataset, "test", data_dir)
    protocols, _ = scored_protocols(split)
    features = features_of(split, image_size or default_size(dataset))
    found = {
        "HOG": evaluate(features, split, protocols),
        "chance": evaluate_chance(split, protocols),
    }
    for protocol in protocols:
        for method, metrics in found.items():
            name = protocol.name
            yield Row(dataset, method, name, protocol.title, metrics[name])


def rows_of_run(workdir: Path) -> Iterator[Row]:
    """The rows of a run's network as it was before its first step."""
    results = read_results(workdir / "results.json")
    for protocol in results["protocols"]:
        yield Row(
            results["dataset"],
            "untrained network",
            protocol,
            title(protocol),
            results["figures"]["untrained"][protocol],
        )


def as_csv(rows: list[Row]) -> str:
    """The rows as fractions with six decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "method", "protocol", *METRICS])
    for row in rows:
        metrics = [f"{row.metrics[key]:.6f}" for key in METRICS]
        writer.writerow([row.data, row.method, row.protocol, *metrics])
    return text.getvalue()


def size(text: str) -> tuple[int, int]:
    """Parses a height and a width for which HOG can be computed, such as "96,48"."""
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < BLOCK * CELL or height % CELL or width % CELL:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHT,WIDTH, two multiples of {CELL} from"
            f" {BLOCK * CELL} on; give for example 96,48."
        )
    return height, width


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--csv", type=Path, help="file to write the metrics to")
    parser.add_argument(
        "--image_size",
        type=size,
        metavar="HEIGHT,WIDTH",
        help="of the images in pixels, multiples of 8 (default: that of the training"
        " configuration for persons, else a square)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        default=[],
        metavar="WORKDIR",
        help="run whose untrained network is compared; may be given several times",
    )
    flags = parser.parse_args()
    try:
        if flags.csv:
            check_writable(flags.csv.parent)
        print(machine_line("numpy", "opencv-python-headless"))
        rows = [
            *(
                row
                for dataset in flags.datasets
                for row in rows_of(dataset, flags.data_dir, flags.image_size)
            ),
            *(row for workdir in flags.run for row in rows_of_run(workdir)),
        ]
        print_table(
            "|".join(["data set|direction|method", *(COLUMNS[key] for key in METRICS)]),
            (
                [
                    row.data,
                    row.title,
                    row.method,
                    *(f"{100 * row.metrics[key]:.1f}" for key in METRICS),
                ]
                for row in rows
            ),
        )
        if flags.csv:
            write_atomically(flags.csv, as_csv(rows).encode())
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
