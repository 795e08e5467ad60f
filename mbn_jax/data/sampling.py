"""Which images make up batch *i*: by identity and modality, by identity, or as found.

Batch *i* is a pure function of ``(seed, i)``: nothing is consumed and nothing has to be
saved, so a run resumes by starting at *i*, and each process may work out a batch by
itself and read only its own rows.

An epoch is drawn as a whole. Permutations of the identities are laid end to end and cut
into groups of P, so that over an epoch no identity is visited more than once more often
than another; the images of an identity in a modality are dealt out by the same rule,
K at each visit.
"""

import functools
from collections.abc import Callable

import numpy as np
from absl import logging

from mbn_jax.errors import InputError

SAMPLERS = ("balanced", "agnostic", "natural")


class Sampler:
    """Batches of records, which `make_sampler` makes.

    Attributes:
        classes: sorted eligible identities, (C,) int32; the class label of an identity
            is its position here.
        left_out: sorted identities that no batch can hold, int32.
        batch_size: images in a batch.
        batches_per_epoch: batches after which every image had its turn, about.
    """

    def __init__(
        self,
        identity: np.ndarray,
        classes: np.ndarray,
        shape: tuple[int, int],
        draw_epoch: Callable[[np.random.Generator], np.ndarray],
        seed: int,
    ) -> None:
        """Takes (batches, images) of an epoch, and what draws it."""
        self.classes = classes.astype(np.int32)
        self.left_out = np.setdiff1d(identity, classes).astype(np.int32)
        self.batches_per_epoch, self.batch_size = shape
        self._identity = identity
        # A cache, not a state: two epochs because threads may straddle the boundary.
        self._epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: draw_epoch(np.random.default_rng([seed, epoch]))
        )

    def batch(self, index: int) -> np.ndarray:
        """Returns the records of batch ``index``.

        Args:
            index: number of the batch since the start of training, not negative.

        Returns:
            (batch_size,) int64 record indices, in the order of the rows.
        """
        epoch, position = divmod(index, self.batches_per_epoch)
        return self._epoch(epoch)[position].copy()

    def class_of(self, record_indices: np.ndarray) -> np.ndarray:
        """Returns the class labels, int32, of records of eligible identities.

        Raises:
            InputError: a record belongs to an identity that was left out.
        """
        identity = self._identity[record_indices]
        label = np.searchsorted(self.classes, identity)
        known = self.classes[np.minimum(label, self.classes.size - 1)] == identity
        if not np.all(known):
            missing = np.unique(identity[~known]).tolist()
            raise InputError(
                f"Identities {missing} have no class label, because they have no image"
                " in some modality; ask for records of the identities in `classes`."
            )
        return label.astype(np.int32)


def make_sampler(
    name: str,
    identity: np.ndarray,
    modality: np.ndarray,
    *,
    num_identities: int,
    num_images: int,
    seed: int,
    num_modalities: int = 2,
) -> Sampler:
    """Returns a sampler of batches of P * K * M images by its name.

    * "balanced": P identities with K images each in every modality. The rows of a batch
      are ordered identity by identity and, within an identity, modality by modality, so
      that a contiguous shard of whole identities holds every modality. An identity that
      lacks a modality cannot fill its rows: it is left out, and the number left out is
      logged.
    * "agnostic": P identities with M * K images each, whatever their modality, as MCJA
      draws them.
    * "natural": permutations of all images laid end to end, so that modalities and
      identities come in proportion to their images.

    The share of a modality varies from batch to batch with all samplers but the first.

    Example:
        >>> identity = np.repeat([7, 9, 12], 4)
        >>> modality = np.tile([0, 0, 1, 1], 3)
        >>> sampler = make_sampler(
        ...     "balanced", identity, modality, num_identities=2, num_images=1, seed=0
        ... )
        >>> records = sampler.batch(5)
        >>> modality[records].tolist()
        [0, 1, 0, 1]

    An epoch has images of the largest modality // (P * K) batches, at least 1: the rule
    of AGW (Ye et al., TPAMI 2021), counted over the eligible identities.

    Args:
        name: one of `SAMPLERS`.
        identity: the identity of each record, (N,) integers.
        modality: the modality of each record, (N,) integers below ``num_modalities``.
        num_identities: P, the identities in a batch.
        num_images: K, the images of an identity in each modality.
        seed: not negative.
        num_modalities: M, the modalities that an identity must have.

    Raises:
        InputError: a size or a label is out of range, no identity has every modality,
            or P is larger than the number of identities that do. Natural batches can
            always be drawn.
    """
    identity, modality = np.asarray(identity), np.asarray(modality)
    if name == "natural":
        batch_size = num_modalities * num_identities * num_images
        shape = max(1, identity.size // batch_size), batch_size
        return Sampler(
            identity,
            np.unique(identity),
            shape,
            lambda rng: _even_groups(rng, identity.size, shape),
            seed,
        )
    if name == "agnostic":
        # As if all images were of one modality.
        num_images = num_modalities * num_images
        modality, num_modalities = np.zeros_like(modality), 1
    sizes = num_identities, num_images, num_modalities
    _check(identity, modality, *sizes, seed)
    return _balanced(identity, modality, *sizes, seed)


def _balanced(
    identity: np.ndarray,
    modality: np.ndarray,
    num_identities: int,
    num_images: int,
    num_modalities: int,
    seed: int,
) -> Sampler:
    classes = functools.reduce(
        np.intersect1d,
        [identity[modality == m] for m in range(num_modalities)],
        np.unique(identity),
    )
    # In `records` those of every (class, modality) lie side by side.
    eligible = np.flatnonzero(np.isin(identity, classes))
    label = np.searchsorted(classes, identity[eligible])
    group = label * num_modalities + modality[eligible]
    records = eligible[np.argsort(group, kind="stable")].astype(np.int64)
    counts = np.bincount(group, minlength=classes.size * num_modalities)
    starts = np.cumsum(counts) - counts
    largest = int(counts.reshape(-1, num_modalities).sum(0).max(initial=0))
    num_batches = max(1, largest // (num_identities * num_images))

    def draw_epoch(rng: np.random.Generator) -> np.ndarray:
        labels = _even_groups(rng, classes.size, (num_batches, num_identities)).ravel()
        visits = np.bincount(labels, minlength=classes.size)
        # A stable sort lists the visits of each class one after the other.
        by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(visits)[:-1])
        drawn = np.empty((labels.size, num_modalities, num_images), np.int64)
        for label in np.flatnonzero(visits):
            for modality in range(num_modalities):
                group = label * num_modalities + modality
                shape = visits[label], num_images
                images = _even_groups(rng, counts[group], shape)
                drawn[by_class[label], modality] = records[starts[group] + images]
        return drawn.reshape(num_batches, -1)

    batch_size = num_identities * num_images * num_modalities
    shape = num_batches, batch_size
    sampler = Sampler(identity, classes, shape, draw_epoch, seed)
    num_all = sampler.left_out.size + classes.size
    if sampler.left_out.size:
        logging.warning(
            "%d of %d identities have no image in some of the %d modalities and are"
            " left out.",
            sampler.left_out.size,
            num_all,
            num_modalities,
        )
    if not classes.size:
        by_modality = (
            f"modality {m}: {np.unique(identity[modality == m]).size}"
            for m in range(num_modalities)
        )
        raise InputError(
            f"None of the {num_all} identities has an image in all {num_modalities}"
            f" modalities (identities with images in {', '.join(by_modality)}), so that"
            " no balanced batch can be drawn; add images of the missing modalities, or"
            ' set the sampler to "agnostic" or "natural".'
        )
    if num_identities > classes.size:
        raise InputError(
            f"A batch of {num_identities} identities cannot be drawn from the"
            f" {classes.size} identities that have an image in every modality; set"
            f" num_identities to {classes.size} or less, or use a larger data set."
        )
    return sampler


def _even_groups(
    rng: np.random.Generator, size: int, shape: tuple[int, int]
) -> np.ndarray:
    """Deals groups of numbers below ``size``, each number equally often.

    Permutations are laid end to end and cut into groups: how often two numbers occur
    differs by one at most. A group that lies across a seam is kept free of repetition
    by letting the numbers that it already holds come later in the next permutation.
    Only a group larger than ``size`` repeats numbers, again as evenly as possible.
    """
    count, group = shape
    laid: list[np.ndarray] = []
    length = 0
    while length < count * group:
        following = rng.permutation(size)
        held = length % group
        if held and group <= size:
            used = np.isin(following, laid[-1][-held:])
            free = np.flatnonzero(~used)[: group - held]
            following = np.concatenate([following[free], np.delete(following, free)])
        laid.append(following)
        length += size
    return np.concatenate(laid)[: count * group].reshape(shape)


def _check(
    identity: np.ndarray,
    modality: np.ndarray,
    num_identities: int,
    num_images: int,
    num_modalities: int,
    seed: int,
) -> None:
    if identity.ndim != 1 or identity.shape != modality.shape:
        raise InputError(
            "identity and modality must be vectors of one length, one entry a record,"
            f" but their shapes are {identity.shape} and {modality.shape}."
        )
    for name, value, least in (
        ("num_identities", num_identities, 1),
        ("num_images", num_images, 1),
        ("num_modalities", num_modalities, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, but it is {value}.")
    outside = np.unique(modality[(modality < 0) | (modality >= num_modalities)])
    if outside.size:
        raise InputError(
            f"Modality labels must lie in 0..{num_modalities - 1}, but the records hold"
            f" {outside.tolist()}."
        )
