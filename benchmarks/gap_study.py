"""Where a trained network's remaining gap comes from, and whether it matters.

    python benchmarks/gap_study.py runs/a runs/b …

prints for each work directory the mean over the layers of the gaps after the
normalisations with running statistics on augmented training images, on training images
as they are and on test images; and then, with statistics that are re-estimated from
unlabelled test images, mAP in both directions and the gap on test images. Its outcome
is in docs/distribution-gaps.md.
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine_line  # type: ignore[import-not-found]

import mbn_jax
from mbn_jax import convert
from mbn_jax.analysis.gap import measure_gaps
from mbn_jax.data.augment import normalise
from mbn_jax.data.dataset import Split, load_split, training_split
from mbn_jax.data.pipeline import load_images
from mbn_jax.deploy.loading import load_network
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate, every_pair
from mbn_jax.models.reid import ReID
from mbn_jax.training.config import read_config
from mbn_jax.training.gaps import draw_batches

NUM_BATCHES, PER_MODALITY = 40, 32
Network = tuple[ReID, Any]


def study(workdir: str) -> None:
    """Prints the lines of one run."""
    config = read_config(workdir)
    model, variables = load_network(workdir)
    dataset, data_dir = config.data.dataset, config.data.data_dir
    train = load_split(dataset, training_split(dataset), data_dir)
    test = load_split(dataset, "test", data_dir)
    images = load_images(test, np.arange(len(test)), model.image_size)

    def gap(network: Network, split: Split, augmented: bool = False) -> str:
        batches = draw_batches(config, model, split, 32, augmented=augmented)
        gaps = measure_gaps(*network, batches, train=False)
        after = [gap for gap in gaps if gap.side == "after"]
        intra, lasting = (
            np.mean([d for gap in after for d in getattr(gap, name).values()])
            for name in ("intra", "lasting")
        )
        return f"intra {intra:.3f}, lasting {lasting:.3f}"

    print(workdir)
    trained = model, variables
    print(f"  training images, augmented: {gap(trained, train, augmented=True)}")
    print(f"  training images as they are: {gap(trained, train)}")
    networks = {"as trained": trained, **re_estimated(trained, images, test.modality)}
    for name, network in networks.items():
        features = mbn_jax.embed(*network, images, test.modality)
        figures = evaluate(features, test, every_pair(test.modalities))
        maps = ", ".join(f"{100 * figure['mAP']:.2f}" for figure in figures.values())
        print(f"  test images, {name}: {gap(network, test)}, mAP {maps}", flush=True)


def re_estimated(
    trained: Network, images: np.ndarray, modality: np.ndarray
) -> dict[str, Network]:
    """Networks with statistics of the test images, each modality's or common ones."""
    model, variables = trained
    mbn, bn = model.copy(norm="mbn"), model.copy(norm="bn")
    if model.norm == "bn":
        variables = convert.from_batch_norm(variables, 2)

    def batches(by_modality: bool) -> Iterator[tuple[jax.Array, np.ndarray]]:
        rng = np.random.default_rng(0)
        kinds = [np.flatnonzero(modality == m) for m in (0, 1)]
        for _ in range(NUM_BATCHES):
            rows = np.concatenate(
                [rng.choice(kind, PER_MODALITY, replace=False) for kind in kinds]
            )
            yield normalise(jnp.asarray(images[rows])), modality[rows] * by_modality

    def estimate(by_modality: bool) -> Any:
        apply = functools.partial(mbn.apply, train=True)
        return convert.estimate_statistics(apply, variables, batches(by_modality))

    networks = {"re-estimated by modality": (mbn, estimate(True))}
    if model.norm == "bn":
        together = convert.to_batch_norm(estimate(False), 0)
        networks["re-estimated together"] = bn, together
    return networks


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workdirs", nargs="+")
    print(machine_line("jax", "flax"))
    try:
        for workdir in parser.parse_args().workdirs:
            study(workdir)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
