"""What re-estimated statistics do for cameras that a network was not trained with.

    python benchmarks/adaptation.py --dataset=synthetic_vireid/thermal runs/nir-*

The networks are adapted with pictures of the data set's training identities, without
their labels, and evaluated on its test identities. With --hazy the infrared pictures of
both have a third of their contrast. Prints a Markdown table of mAP, mean ± standard
deviation over the networks; docs/own-pictures.md keeps it.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import machine_line  # type: ignore[import-not-found]

import mbn_jax
from mbn_jax.data.dataset import Split, load_split
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.sources import protocols_of
from mbn_jax.deploy.adaptation import adapt
from mbn_jax.deploy.loading import load_network
from mbn_jax.evaluation import evaluate

INFRARED = 1
NATIVE = (144, 72)  # of the drawn pictures


def hazy(images: np.ndarray) -> np.ndarray:
    """Pictures (…, 3) uint8 as through haze, or with too weak a lamp."""
    return (70 + 0.35 * images.astype(np.float32)).astype(np.uint8)


def write_crops(split: Split, folder: Path, with_haze: bool) -> dict[str, Path]:
    """The pictures of a split in a folder for each modality."""
    folders = {name: folder / name for name in split.modalities}
    for index, (name, modality) in enumerate(
        zip(split.name, split.modality, strict=True)
    ):
        (image,) = load_images(split, np.array([index]), NATIVE)
        if with_haze and modality == INFRARED:
            image = hazy(image)
        path = (folders[split.modalities[modality]] / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    return folders


def mean_average_precisions(
    model: Any, variables: Any, split: Split, with_haze: bool
) -> list[float]:
    """Per cent, of infrared in visible pictures and of visible in infrared ones."""
    images = load_images(split, np.arange(len(split)), model.image_size)
    if with_haze:
        images[split.modality == INFRARED] = hazy(images[split.modality == INFRARED])
    features = mbn_jax.embed(model, variables, images, split.modality)
    protocols = protocols_of(split.dataset, split.modalities)
    figures = evaluate(features, split, protocols)
    return [100 * figures[protocol.name]["mAP"] for protocol in protocols]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workdirs", nargs="+")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--hazy", action="store_true")
    arguments = parser.parse_args()
    print(machine_line("jax", "flax"))
    train, test = (
        load_split(arguments.dataset, split, arguments.data_dir)
        for split in ("train", "test")
    )
    networks = [load_network(workdir) for workdir in arguments.workdirs]
    with tempfile.TemporaryDirectory() as temporary:
        both = write_crops(train, Path(temporary), arguments.hazy)
        ways: dict[str, tuple[Mapping[str, Path], int]] = {"not adapted": ({}, 0)}
        for count in (16, 64, 256, 1024):
            ways[f"both modalities, {count:,} pictures of each"] = (both, count)
        alone = {"infrared": both["infrared"]}
        ways["infrared alone, 1,024 pictures"] = (alone, 1024)
        print(
            "\n| statistics | infrared → visible | visible → infrared |\n|---|---|---|"
        )
        for way, (folders, count) in ways.items():
            found = []
            for model, variables in networks:
                if folders:
                    variables = adapt(model, variables, folders, num_images=count)
                found.append(
                    mean_average_precisions(model, variables, test, arguments.hazy)
                )
            cells = [
                f"{np.mean(one):.1f} ± {np.std(one, ddof=len(networks) > 1):.1f}"
                for one in zip(*found, strict=True)
            ]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
