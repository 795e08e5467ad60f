"""Ranked lists for a person to look at: which gallery images come first."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from mbn_jax.arguments import integer
from mbn_jax.evaluation.distances import cosine_distances, features_of
from mbn_jax.evaluation.protocols import Protocol, check_protocol
from mbn_jax.evaluation.records import Records

# Printed beside the lists, because a reader must know that nobody picked the good ones.
SELECTION = (
    "The queries are spread evenly over the identities of the split by a fixed rule "
    "that does not look at the result: they were not picked for success."
)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The head of one query's ranked gallery.

    Attributes:
        query: index of the query image in the split.
        gallery: (length,) indices of the first gallery images in the split.
        correct: (length,) bool, whether each shows the query's identity.
    """

    query: int
    gallery: np.ndarray
    correct: np.ndarray


def ranked_list(
    features: np.ndarray,
    records: Records,
    *,
    protocol: Protocol,
    num_queries: int = 8,
    length: int = 10,
) -> list[Ranking]:
    """Ranks the gallery for a few queries that are spread over the identities.

    The rules of the protocol hold: what it removes for a query is not in its list,
    and queries without a match are not shown. Of several trials it is the first.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: who is query and who is gallery.
        num_queries: number of lists; fewer if there are fewer identities.
        length: number of gallery images in a list.

    Raises:
        ValueError: the features are not a matrix with a row for each record, or another
            argument is not as above.
    """
    check_protocol(protocol)
    features = features_of(records, features)
    num_queries = integer("num_queries", num_queries, least=0)
    length = integer("length", length, least=0)
    query, gallery = protocol.trials(records)[0]
    rankings = []
    for index in _spread(query, gallery, records, protocol, num_queries):
        allowed = gallery[~_removed(index, gallery, records, protocol)]
        best = nearest(features[index], features[allowed], length)
        found = allowed[best]
        correct = records.identity[found] == records.identity[index]
        rankings.append(Ranking(int(index), found, correct))
    return rankings


def nearest(query: np.ndarray, gallery: np.ndarray, length: int = 10) -> np.ndarray:
    """Indices of the gallery features (G, D) closest to one query (D,), in order."""
    distance = jax.device_get(cosine_distances(query[None, :], gallery))[0]
    return np.argsort(distance, kind="stable")[:length]


def _removed(
    index: int, gallery: np.ndarray, records: Records, protocol: Protocol
) -> np.ndarray:
    return protocol.removed(
        records.identity[index],
        records.camera[index],
        records.identity[gallery],
        records.camera[gallery],
    )


def _spread(
    query: np.ndarray,
    gallery: np.ndarray,
    records: Records,
    protocol: Protocol,
    num_queries: int,
) -> Sequence[int]:
    """One query of each of evenly spaced identities, at varying places in it."""
    identity = records.identity

    def has_match(index: int) -> bool:
        allowed = ~_removed(index, gallery, records, protocol)
        return bool(np.any(identity[gallery[allowed]] == identity[index]))

    valid = np.array([index for index in query if has_match(index)], dtype=int)
    people = np.unique(identity[valid])
    count = min(num_queries, len(people))
    chosen = people[np.linspace(0, len(people) - 1, count).round().astype(int)]
    shown = []
    for place, person in enumerate(chosen):
        # Images of a person lie camera by camera, so a moving place varies the camera.
        images = valid[identity[valid] == person]
        shown.append(int(images[place * len(images) // count]))
    return shown
