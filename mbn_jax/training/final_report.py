"""What a finished run leaves: results.json, gaps.json and the report."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.analysis.charts import png
from mbn_jax.analysis.embedding import map_section, similarity_section
from mbn_jax.analysis.gap import Gap, as_json
from mbn_jax.analysis.gap_charts import Measured, gap_sections
from mbn_jax.analysis.ranked_lists import draw_ranked_lists, illustrate
from mbn_jax.analysis.report import write_report
from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.sources import task_of
from mbn_jax.evaluation import (
    Protocol,
    evaluate,
    evaluate_chance,
    make_results,
    ranked_list,
)
from mbn_jax.files import write_atomically, write_json
from mbn_jax.training.processes import is_main

_IMAGE_SIZE = (192, 96)  # height, width of the images in the ranked lists


def write_final_report(
    workdir: Path,
    split: Split,
    protocols: Sequence[Protocol],
    *,
    selection: str,
    features: Mapping[str, tuple[int, np.ndarray]],
    gaps: Callable[[], Mapping[str, Sequence[Gap]]],
) -> dict[str, Any]:
    """Evaluates, and writes results.json, gaps.json and the report, in process 0.

    Args:
        workdir: the run's work directory.
        split: the test split.
        protocols: those by which it is evaluated.
        selection: what the network was trained on and how its step was chosen.
        features: of the split, `(N, D)`, with their step, by the name of the row:
            "last", "untrained", and "best" if there was a validation.
        gaps: measures those of the last step, as
            `mbn_jax.training.diagnostics.network_gaps` does.

    Returns:
        The content of results.json, in every process.
    """
    figures: dict[str, dict[str, Any]] = {
        row: {"step": step, **evaluate(values, split, protocols)}
        for row, (step, values) in features.items()
    }
    results = make_results(
        dataset=split.dataset,
        split=split.split,
        task=split.info.task if split.info else task_of(split.dataset),
        selection=selection,
        protocols=protocols,
        figures={**figures, "chance": evaluate_chance(split, protocols)},
    )
    if not is_main():
        return results
    write_json(workdir / "results.json", results)

    step, last = features["last"]
    images = functools.partial(load_images, split, image_size=_IMAGE_SIZE)
    rankings = {
        protocol: illustrate(
            ranked_list(last, split, protocol=protocol),
            images,
            split.identity_names,
            split.camera_names,
        )
        for protocol in protocols
    }
    by_name = {protocol.name: lists for protocol, lists in rankings.items()}
    sections = [
        similarity_section(last, split),
        map_section(last, split, split.identity_names),
    ]
    # Without the gaps first: measuring them runs the network, and may fail.
    write_report(workdir, by_name, sections, split.modalities)
    for protocol, lists in rankings.items():
        title = f"{split.dataset}, {protocol.title}, step {step}"
        figure = draw_ranked_lists(lists, title)
        # The name of a modality may be any text, "nir/940" for example.
        name = protocol.name.replace("%", "%25").replace("/", "%2F")
        write_atomically(workdir / "report" / f"{name}.png", png(figure, dpi=80))
    if measured := gaps():
        write_json(workdir / "gaps.json", as_json(measured))
        sections += gap_sections([Measured("", "", *way) for way in measured.items()])
        write_report(workdir, by_name, sections, split.modalities)
    return results
