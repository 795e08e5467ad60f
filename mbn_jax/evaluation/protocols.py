"""Who is query, who is gallery, and which gallery images a query may find."""

import dataclasses

VISIBLE, INFRARED = 0, 1


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to ask the question "can this person be found again?".

    Attributes:
        name: key in ``results.json``.
        title: the same for a person to read.
        query_modality: modality of the query images, 0 visible or 1 infrared.
        gallery_modality: modality of the gallery images.
        description: the rules in one sentence; it is printed with every figure.
        remove_same_camera: whether the gallery images that share both the identity and
          the camera of a query are removed for that query. Finding the next frame of
          the same camera is tracking, not re-identification.
    """

    name: str
    title: str
    query_modality: int
    gallery_modality: int
    description: str
    remove_same_camera: bool = True


def _embedded(name: str, title: str, query: int, gallery: int) -> Protocol:
    words = ("visible", "infrared")
    return Protocol(
        name=name,
        title=title,
        query_modality=query,
        gallery_modality=gallery,
        description=(
            f"Every {words[query]} image of the split is a query against every "
            f"{words[gallery]} image of it (one gallery, no sampling); gallery images "
            "with both the identity and the camera of a query are removed for that "
            "query, queries left without a match are not scored, and the CMC counts "
            "images, not identities."
        ),
    )


INFRARED_TO_VISIBLE = _embedded(
    "infrared_to_visible", "infrared → visible", INFRARED, VISIBLE
)
VISIBLE_TO_INFRARED = _embedded(
    "visible_to_infrared", "visible → infrared", VISIBLE, INFRARED
)

# The protocols of the embedded data sets, in the order in which they are shown.
EMBEDDED_PROTOCOLS = (INFRARED_TO_VISIBLE, VISIBLE_TO_INFRARED)
