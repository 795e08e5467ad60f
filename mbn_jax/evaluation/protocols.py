"""The protocols of data that have none of their own: every ordered pair of modalities.

The protocols of published data sets stand with all other facts about them, in
`mbn_jax.data.sources`; docs/protocols.md explains them to a person.
"""

from collections.abc import Sequence

from mbn_jax import modalities as names
from mbn_jax.evaluation.rules import Protocol


def every_pair(modalities: Sequence[str] = names.DEFAULT) -> tuple[Protocol, ...]:
    """Every image of one modality against every image of another, for all pairs.

    Args:
        modalities: the names of the modalities, by index.

    Returns:
        M * (M - 1) protocols, named for example "infrared_to_visible": the queries from
        the last modality to the first, and for each of them the galleries from the
        first to the last.
    """
    return tuple(
        _pair(query, gallery, modalities)
        for query in reversed(range(len(modalities)))
        for gallery in range(len(modalities))
        if gallery != query
    )


def _pair(query: int, gallery: int, modalities: Sequence[str]) -> Protocol:
    of, to = modalities[query], modalities[gallery]
    return Protocol(
        name=f"{of}_to_{to}",
        title=f"{of} → {to}",
        description=(
            f"Every {of} image of the split is a query against every {to} image of it, "
            "except for images that are marked as query or gallery only (one gallery, "
            "no sampling); gallery images with both the identity and the "
            "camera of a query are removed for that query, queries left without a "
            "match are not scored, and the CMC counts images, not identities."
        ),
        query_modality=query,
        gallery_modality=gallery,
        remove_same_camera=True,
    )
