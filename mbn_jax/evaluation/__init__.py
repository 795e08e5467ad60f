"""Features, distances, CMC, mAP and mINP, and what chance would score."""

from mbn_jax.evaluation.chance import chance_level
from mbn_jax.evaluation.features import embed, extract
from mbn_jax.evaluation.metrics import cosine_distances, retrieval_metrics
from mbn_jax.evaluation.protocols import (
    EMBEDDED_PROTOCOLS,
    INFRARED_TO_VISIBLE,
    VISIBLE_TO_INFRARED,
    Protocol,
)
from mbn_jax.evaluation.ranking import Ranking, ranked_list
from mbn_jax.evaluation.results import evaluate, evaluate_chance, make_results
from mbn_jax.evaluation.table import format_table

__all__ = [
    "EMBEDDED_PROTOCOLS",
    "INFRARED_TO_VISIBLE",
    "VISIBLE_TO_INFRARED",
    "Protocol",
    "Ranking",
    "chance_level",
    "cosine_distances",
    "embed",
    "evaluate",
    "evaluate_chance",
    "extract",
    "format_table",
    "make_results",
    "ranked_list",
    "retrieval_metrics",
]
