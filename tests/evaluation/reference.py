"""The published rules as loops over images, without any code of the package."""

import random
from typing import NamedTuple


class Scores(NamedTuple):
    """One entry for each query that has a match, in the order of the queries.

    Attributes:
        query: the query.
        ranks: at which ranks its matches are.
        shown: the rank that counts in the CMC.
        precision: average precision.
        inverse_penalty: number of matches / rank of the last match.
    """

    query: list
    ranks: list
    shown: list
    precision: list
    inverse_penalty: list


def score(identity, distance, queries, gallery, skips, cmc):
    """Ranks the gallery for one query after the other.

    `identity[i]` and `distance[q][g]` are of images, `skips(q, g)` says whether query q
    must not find g, and `cmc` is "images" or "identities".
    """
    scores = Scores([], [], [], [], [])
    for q in queries:
        ranked = [g for g in gallery if not skips(q, g)]
        ranked.sort(key=lambda g: distance[q][g])  # equals stay in gallery order
        people = [identity[g] for g in ranked]
        ranks = [k for k, person in enumerate(people, start=1) if person == identity[q]]
        if not ranks:
            continue
        if cmc == "identities":
            people = list(dict.fromkeys(people))  # the first occurrence of each
        precisions = [i / rank for i, rank in enumerate(ranks, start=1)]
        scores.query.append(q)
        scores.ranks.append(ranks)
        scores.shown.append(1 + people.index(identity[q]))
        scores.precision.append(sum(precisions) / len(precisions))
        scores.inverse_penalty.append(len(ranks) / ranks[-1])
    return scores


def figures(scores, num_queries, gallery_size):
    """The means, under the names of the package."""
    count = len(scores.query)
    cmc = [
        sum(rank <= k for rank in scores.shown) / count
        for k in range(1, min(50, gallery_size) + 1)
    ]
    return {
        **{f"rank{k}": cmc[min(k, len(cmc)) - 1] for k in (1, 5, 10, 20)},
        "mAP": sum(scores.precision) / count,
        "mINP": sum(scores.inverse_penalty) / count,
        "cmc": cmc,
        "num_queries": num_queries,
        "num_valid_queries": count,
        "gallery_size": gallery_size,
    }


def all_against_all(records, query_modality):
    """One trial, of every image of one modality against every image of the other."""
    queries = [i for i, m in enumerate(records.modality) if m == query_modality]
    gallery = [i for i, m in enumerate(records.modality) if m != query_modality]
    return [(queries, gallery)]


def sysu_mm01(records, search, shots, orders=None):
    """Ten trials; AGW's galleries, or the official ones if `orders` are given."""
    queries = [i for i, camera in enumerate(records.camera) if camera in (3, 6)]
    cameras = {"all": [1, 2, 4, 5], "indoor": [1, 2]}[search]
    trials = []
    for trial in range(10):
        random.seed(trial)
        gallery = []
        for identity in sorted(set(records.identity.tolist())):
            for camera in cameras:
                files = folder(records, identity, camera, modality=0)
                if not files:
                    continue
                if orders is not None:
                    numbers = orders[camera, identity][trial][:shots]
                    gallery += [
                        files[f"cam{camera}/{identity:04d}/{number:04d}.jpg"]
                        for number in numbers
                    ]
                elif shots == 1:
                    gallery.append(files[random.choice(sorted(files))])
                else:
                    count = min(shots, len(files))
                    names = random.sample(sorted(files), count)
                    gallery += [files[name] for name in names]
        trials.append((queries, gallery))
    return trials


def llcm(records, query_modality, swapped):
    """Ten trials: one image of each identity and camera of the other modality."""
    queries = [i for i, m in enumerate(records.modality) if m == query_modality]
    trials = []
    for trial in range(10):
        random.seed(trial)
        gallery = []
        for identity in sorted(set(records.identity.tolist())):
            for camera in range(1, 10):
                files = folder(records, identity, camera, 1 - query_modality)
                if files:
                    gallery.append(files[random.choice(sorted(files))])
        trials.append((gallery, queries) if swapped else (queries, gallery))
    return trials


def folder(records, identity, camera, modality):
    """The images of an identity in a camera by their names."""
    return {
        str(records.name[i]): i
        for i in range(len(records.name))
        if records.identity[i] == identity
        and records.camera[i] == camera
        and records.modality[i] == modality
    }
