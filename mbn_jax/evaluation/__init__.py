"""Features, distances, CMC, mAP and mINP, and what guessing would score."""

from mbn_jax.evaluation.chance import chance_level
from mbn_jax.evaluation.distances import (
    cosine_distances,
    euclidean_distances,
    l2_normalize,
)
from mbn_jax.evaluation.features import batch_rows, extract
from mbn_jax.evaluation.metrics import feature_metrics, retrieval_metrics
from mbn_jax.evaluation.protocols import Protocol, Trial, every_pair
from mbn_jax.evaluation.ranking import Ranking, ranked_list
from mbn_jax.evaluation.results import (
    average_precisions,
    evaluate,
    evaluate_chance,
    evaluate_file,
    make_results,
    mean_over_trials,
)
from mbn_jax.evaluation.table import format_table

__all__ = [
    "Protocol",
    "Ranking",
    "Trial",
    "average_precisions",
    "batch_rows",
    "chance_level",
    "cosine_distances",
    "euclidean_distances",
    "evaluate",
    "evaluate_chance",
    "evaluate_file",
    "every_pair",
    "extract",
    "feature_metrics",
    "format_table",
    "l2_normalize",
    "make_results",
    "mean_over_trials",
    "ranked_list",
    "retrieval_metrics",
]
