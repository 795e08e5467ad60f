"""What a finished run leaves: results.json and the report."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.analysis.ranked_lists import draw_ranked_lists, illustrate
from mbn_jax.analysis.report import write_report
from mbn_jax.data.datasets import Split
from mbn_jax.data.pipeline import load_images
from mbn_jax.evaluation import (
    EMBEDDED_PROTOCOLS,
    evaluate,
    evaluate_chance,
    make_results,
    ranked_list,
)
from mbn_jax.files import write_json

SELECTION_SPLIT = "val"
SELECTION = (
    "the step with the highest mean of both directions' mAP on the validation split, "
    "whose identities are in neither training nor test; among equals the latest."
)
_PICTURE_SIZE = (192, 96)  # height, width of the ranked lists' pictures


def mean_map(figures: dict[str, dict[str, Any]]) -> float:
    """The mean of both directions' mAP, by which the best step is chosen."""
    return float(np.mean([figures[p.name]["mAP"] for p in EMBEDDED_PROTOCOLS]))


def write_outcome(
    workdir: Path,
    split: Split,
    *,
    last: tuple[int, np.ndarray],
    best: tuple[int, np.ndarray],
    untrained: np.ndarray,
) -> dict[str, Any]:
    """Evaluates, and writes `results.json`, `report/index.html` and its pictures.

    Args:
      workdir: of the run.
      split: test split.
      last: the last step, and its features of the split, `(N, D)` float32.
      best: the same of the step that was best on validation.
      untrained: features before the first step.

    Returns:
      The content of results.json.
    """
    labels = split.identity, split.camera, split.modality
    results = make_results(
        dataset=split.dataset,
        split=split.split,
        selection=SELECTION,
        last=(last[0], evaluate(last[1], *labels)),
        best=(best[0], evaluate(best[1], *labels)),
        untrained=evaluate(untrained, *labels),
        chance=evaluate_chance(*labels),
    )
    write_json(workdir / "results.json", results)

    pictures = functools.partial(load_images, split, image_size=_PICTURE_SIZE)
    rankings = {
        protocol: illustrate(
            ranked_list(last[1], *labels, protocol=protocol),
            pictures,
            split.identity,
            split.camera,
        )
        for protocol in EMBEDDED_PROTOCOLS
    }
    write_report(workdir, {protocol.name: r for protocol, r in rankings.items()})
    for protocol, lists in rankings.items():
        title = f"{split.dataset}, {protocol.title}, step {last[0]}"
        figure = draw_ranked_lists(lists, title)
        figure.savefig(workdir / "report" / f"{protocol.name}.png", dpi=80)
    return results
