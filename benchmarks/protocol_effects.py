"""What the rules of an evaluation do to its figures, for one and the same features.

    python benchmarks/protocol_effects.py --exp=PATH_OF_SYSU_MM01/exp

Made-up features of the test images of SYSU-MM01, of which only the number is taken from
rand_perm_cam.mat and test_id.mat: a direction for the identity, one for the camera, one
for the identity in the camera, and noise. Prints a Markdown table; docs/protocols.md
keeps it.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import scipy.io
from machine import machine_line  # type: ignore[import-not-found]

from mbn_jax.data.sources import sysu_mm01
from mbn_jax.evaluation import Protocol, evaluate
from mbn_jax.evaluation.distances import Distance
from mbn_jax.evaluation.records import Records
from mbn_jax.evaluation.table import COLUMNS, cells

DIMENSIONS = 64


def test_records(exp: Path) -> Records:
    """Every image of the test identities of SYSU-MM01."""
    permutations = sysu_mm01.read_permutations(exp / "rand_perm_cam.mat")
    identities = scipy.io.loadmat(exp / "test_id.mat")["id"][0].tolist()
    rows = [
        (identity, camera, f"cam{camera}/{identity:04d}/{image:04d}.jpg")
        for identity in sorted(identities)
        for camera in range(1, 7)
        if (camera, identity) in permutations
        for image in range(1, permutations[camera, identity].shape[1] + 1)
    ]
    identity, camera, name = map(np.array, zip(*rows, strict=True))
    modality = np.isin(camera, (3, 6)).astype(np.int32)
    return Records(identity=identity, camera=camera, modality=modality, name=name)


def made_up_features(records: Records) -> np.ndarray:
    """(N, 64): directions drawn at random for what images have in common, and noise."""
    rng = np.random.default_rng(0)
    view = records.identity * 10 + records.camera
    features = 0.8 * rng.standard_normal((len(records), DIMENSIONS))
    for labels, weight in (
        (records.identity, 0.55),
        (records.camera, 0.5),
        (view, 0.5),
    ):
        places = np.unique(labels, return_inverse=True)[1]
        directions = rng.standard_normal((places.max() + 1, DIMENSIONS))
        features += weight * directions[places]
    return features


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--exp", type=Path, required=True, help="folder of the two .mat files"
    )
    flags = parser.parse_args()
    print(machine_line("numpy"))
    records = test_records(flags.exp)
    permutations = sysu_mm01.read_permutations(flags.exp / "rand_perm_cam.mat")
    usual = sysu_mm01.protocol()
    official = sysu_mm01.protocol("all", 1, "official", permutations)
    forms: dict[str, tuple[Protocol, Distance]] = {
        "all-search, single-shot, AGW's galleries, cosine": (usual, "cosine"),
        "… but the CMC counts images": (
            dataclasses.replace(usual, cmc="images"),
            "cosine",
        ),
        "… but the official galleries": (official, "cosine"),
        "… but Euclidean distance": (usual, "euclidean"),
        "… but camera 3 does not skip camera 2": (
            dataclasses.replace(usual, removed_cameras=()),
            "cosine",
        ),
        "… but ten shots": (sysu_mm01.protocol("all", 10), "cosine"),
        "… but ten shots, and the CMC counts images": (
            dataclasses.replace(sysu_mm01.protocol("all", 10), cmc="images"),
            "cosine",
        ),
        "… but indoor-search": (sysu_mm01.protocol("indoor"), "cosine"),
    }
    features = made_up_features(records)
    print("\n| made-up features | rank-1 | rank-5 | rank-10 | rank-20 | mAP | mINP |")
    print("|---|---|---|---|---|---|---|")
    for name, (protocol, distance) in forms.items():
        figures = evaluate(features, records, [protocol], distance=distance)
        print(f"| {name} | {' | '.join(cells(figures[protocol.name]))} |", flush=True)
    indoor = sysu_mm01.protocol("indoor")
    found = evaluate(features, records, [indoor])[indoor.name]
    share = found["num_valid_queries"] / found["num_queries"]
    zeros = [f"{100 * share * found[key]:.1f}" for key in COLUMNS]
    print(
        f"| … but indoor-search, queries without a match as 0 | {' | '.join(zeros)} |"
    )


if __name__ == "__main__":
    main()
