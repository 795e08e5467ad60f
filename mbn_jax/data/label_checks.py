"""Whether the rows of a manifest fit each other: splits, modalities, identities."""

from mbn_jax import modalities as modality_names
from mbn_jax.data.findings import Findings, some
from mbn_jax.data.manifest import Manifest

_TESTED = ("test", "query", "gallery")


def check_labels(manifest: Manifest, findings: Findings) -> None:
    """Checks identities, cameras, modalities and splits against each other.

    Args:
        manifest: whose rows are each valid by themselves.
        findings: receives problems and warnings.
    """
    rows = manifest.rows
    splits = {row.split for row in rows}
    for split, instead in (("train", ""), ("test", ", or of query and gallery")):
        if split not in splits and not (
            split == "test" and splits & {"query", "gallery"}
        ):
            findings.problem(
                "missing splits",
                f"The manifest has no row of the split {split}; add rows of"
                f" {split}{instead}.",
            )
    if "test" in splits and splits & {"query", "gallery"}:
        findings.problem(
            "mixed test splits",
            "The manifest has rows of test and rows of query or gallery; write test"
            " for all, or query and gallery for all.",
        )
    elif len(splits & {"query", "gallery"}) == 1:
        (given,) = splits & {"query", "gallery"}
        missing = "gallery" if given == "query" else "query"
        findings.problem(
            "missing splits",
            f"The manifest has rows of {given} and none of {missing}; add them, or"
            " write test, in which every image is query and gallery in turn.",
        )
    _check_modalities(manifest, findings)
    _check_identities(manifest, findings)
    for part in ("val", "test"):
        _check_matches(manifest, part, findings)
    by_camera: dict[str, set[str]] = {}
    for row in rows:
        by_camera.setdefault(row.camera, set()).add(row.modality)
    for camera, found in sorted(by_camera.items()):
        if len(found) > 1:
            findings.warning(
                "cameras of several modalities",
                f"The camera {camera} has images of {' and '.join(sorted(found))}; give"
                " the cameras different names unless one device takes both: gallery"
                " images of the query's identity and camera are ignored.",
            )


def _check_modalities(manifest: Manifest, findings: Findings) -> None:
    names = manifest.modalities
    if len(names) < 2:
        findings.problem(
            "too few modalities",
            f"All images are of the modality {' '.join(names) or '(none)'}, but two or"
            " more are expected; write the name of each image's modality in the column"
            " modality.",
        )
        return
    names_of_pairs = [f"{a}_to_{b}" for a in names for b in names if a != b]
    if len(set(names_of_pairs)) < len(names_of_pairs):
        findings.problem(
            "modalities that cannot be told apart",
            f"The modalities {', '.join(names)} give two protocols one name, since"
            " they hold '_to_'; give them other names.",
        )
    if not any(map(modality_names.has_color, names)):
        findings.warning(
            "no modality with color",
            f"None of the modalities {', '.join(names)} is called"
            f" {', '.join(modality_names.COLOR)}; augmentation treats all images as"
            " gray.",
        )
    there = {
        part: {row.modality for row in manifest.rows if row.split in splits}
        for part, splits in (("train", ("train",)), ("test", _TESTED))
    }
    for have, lack in (("train", "test"), ("test", "train")):
        if there[have] and there[lack]:
            for name in sorted(there[have] - there[lack]):
                findings.problem(
                    "modalities of one split",
                    f"The modality {name} has images in {have} and none in {lack}; add"
                    " some or remove those rows.",
                )


def _check_identities(manifest: Manifest, findings: Findings) -> None:
    parts: dict[str, dict[str, set[str]]] = {"train": {}, "val": {}, "test": {}}
    for row in manifest.rows:
        part = "test" if row.split in _TESTED else row.split
        parts[part].setdefault(row.identity, set()).add(row.modality)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        for identity in sorted(parts[first].keys() & parts[second].keys()):
            findings.problem(
                "identities in two splits",
                f"The identity {identity} is in {first} and in {second}; move all its"
                " rows to one of them.",
            )
    num_modalities = len(manifest.modalities)
    for part, of_identity in parts.items():
        single = sorted(i for i, found in of_identity.items() if len(found) == 1)
        lacking = sorted(
            i for i, found in of_identity.items() if 1 < len(found) < num_modalities
        )
        if single:
            what = (
                "balanced batches leave them out"
                if part == "train"
                else "no search across the modalities can find them"
            )
            findings.warning(
                "identities of one modality",
                f"{len(single)} of {len(of_identity)} identities in {part} have images"
                f" of one modality only ({some(single)}): {what}.",
            )
        if lacking and part == "train":
            findings.warning(
                "identities that lack a modality",
                f"{len(lacking)} of {len(of_identity)} identities in train have images"
                f" of several modalities, but not of all {num_modalities}"
                f" ({some(lacking)}): balanced batches leave them out.",
            )


def _check_matches(manifest: Manifest, part: str, findings: Findings) -> None:
    """Reports the ordered pairs of modalities in which no query has a match."""
    queries: dict[str, set[tuple[str, str]]] = {}
    galleries: dict[str, dict[str, set[str]]] = {}
    splits = _TESTED if part == "test" else (part,)
    for row in manifest.rows:
        if row.split not in splits:
            continue
        if row.split != "gallery":
            queries.setdefault(row.modality, set()).add((row.identity, row.camera))
        if row.split != "query":
            of_identity = galleries.setdefault(row.modality, {})
            of_identity.setdefault(row.identity, set()).add(row.camera)
    if not queries or not galleries:
        return

    def has_match(query: str, gallery: str) -> bool:
        there = galleries.get(gallery, {})
        return any(
            there.get(identity, set()) - {camera}
            for identity, camera in queries.get(query, ())
        )

    names = manifest.modalities
    pairs = [(a, b) for a in names for b in names if a != b]
    without = [f"{a} → {b}" for a, b in pairs if not has_match(a, b)]
    if len(without) == len(pairs):
        findings.problem(
            "splits without a match",
            f"No query of {part} has a match: no identity in it was seen in two"
            " modalities by different cameras; add such images.",
        )
    elif without:
        findings.warning(
            "searches without a match",
            f"In {part} no query has a match in the searches {', '.join(without)};"
            " they are left out of the evaluation.",
        )
