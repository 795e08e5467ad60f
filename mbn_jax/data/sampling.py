"""Which images make up batch *i*: by identity and modality, by identity, or as found.

Batch *i* is a pure function of ``(seed, i)``: nothing is consumed and nothing has to be
saved, so a run resumes by starting at *i*, and each process may work out a batch by
itself and read only its own rows.

An epoch is drawn as a whole. Permutations of the identities are laid end to end and cut
into groups of P, so that over an epoch no identity is visited more than once more often
than another; the images of an identity in a modality are dealt out by the same rule,
K at each visit.
"""

import abc
import functools

import numpy as np
from absl import logging

from mbn_jax.errors import InputError

SAMPLERS = ("balanced", "agnostic", "natural")


class Sampler(abc.ABC):
    """What the samplers have in common.

    Attributes:
        classes: sorted eligible identities, (C,) int32; the class label of an identity
            is its position here.
        left_out: sorted identities that no batch can hold, int32.
        batch_size: images in a batch.
        batches_per_epoch: batches after which every image had its turn, about.
    """

    def __init__(
        self, identity: np.ndarray, classes: np.ndarray, batch_size: int, batches: int
    ) -> None:
        """Keeps what the methods need."""
        self.classes = classes.astype(np.int32)
        self.left_out = np.setdiff1d(identity, classes).astype(np.int32)
        self.batch_size = batch_size
        self.batches_per_epoch = max(1, batches)
        self._identity = identity
        # A cache, not a state: two epochs because threads may straddle the boundary.
        self._cached_epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def batch(self, index: int) -> np.ndarray:
        """Returns the records of batch ``index``.

        Args:
            index: number of the batch since the start of training, not negative.

        Returns:
            (batch_size,) int64 record indices, in the order of the rows.
        """
        epoch, position = divmod(index, self.batches_per_epoch)
        return self._cached_epoch(epoch)[position].copy()

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

    @abc.abstractmethod
    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, (batches_per_epoch, batch_size) int64."""


class BalancedSampler(Sampler):
    """Batches of P identities with K images each in every modality.

    The rows of a batch are ordered identity by identity and, within an identity,
    modality by modality, so that a contiguous shard of whole identities holds every
    modality. An identity that lacks a modality cannot fill its rows: it is left out,
    and the number left out is logged.

    Example:
        >>> identity = np.repeat([7, 9, 12], 4)
        >>> modality = np.tile([0, 0, 1, 1], 3)
        >>> sampler = BalancedSampler(
        ...     identity, modality, num_identities=2, num_images=1, seed=0
        ... )
        >>> records = sampler.batch(5)
        >>> modality[records].tolist()
        [0, 1, 0, 1]

    An epoch has images of the largest modality // (P * K) batches, at least 1: the rule
    of AGW (Ye et al., TPAMI 2021), counted over the eligible identities.
    """

    def __init__(
        self,
        identity: np.ndarray,
        modality: np.ndarray,
        *,
        num_identities: int,
        num_images: int,
        seed: int,
        num_modalities: int = 2,
    ) -> None:
        """Sorts the records by identity and modality.

        Args:
            identity: the identity of each record, (N,) integers.
            modality: the modality of each record, (N,) integers below
                ``num_modalities``.
            num_identities: P, the identities in a batch.
            num_images: K, the images of an identity in each modality.
            seed: not negative.
            num_modalities: M, the modalities that an identity must have.

        Raises:
            InputError: a size or a label is out of range, no identity has every
                modality, or P is larger than the number of identities that do.
        """
        identity, modality = np.asarray(identity), np.asarray(modality)
        _check(identity, modality, num_identities, num_images, seed, num_modalities)
        self.num_identities = num_identities
        self.num_images = num_images
        self.num_modalities = num_modalities
        self.seed = seed

        complete = functools.reduce(
            np.intersect1d,
            [identity[modality == m] for m in range(num_modalities)],
            np.unique(identity),
        )
        # The records of every (class, modality) lie side by side in `_records`.
        eligible = np.flatnonzero(np.isin(identity, complete))
        label = np.searchsorted(complete, identity[eligible])
        group = label * num_modalities + modality[eligible]
        self._records = eligible[np.argsort(group, kind="stable")].astype(np.int64)
        self._counts = np.bincount(group, minlength=complete.size * num_modalities)
        self._starts = np.cumsum(self._counts) - self._counts

        largest = int(self._counts.reshape(-1, num_modalities).sum(0).max(initial=0))
        super().__init__(
            identity,
            complete,
            batch_size=num_identities * num_images * num_modalities,
            batches=largest // (num_identities * num_images),
        )
        if self.left_out.size:
            logging.warning(
                "%d of %d identities have no image in some of the %d modalities and"
                " are left out.",
                self.left_out.size,
                self.left_out.size + self.classes.size,
                num_modalities,
            )
        if not self.classes.size:
            by_modality = (
                f"modality {m}: {np.unique(identity[modality == m]).size}"
                for m in range(num_modalities)
            )
            raise InputError(
                f"None of the {self.left_out.size} identities has an image in all"
                f" {num_modalities} modalities (identities with images in"
                f" {', '.join(by_modality)}), so that no balanced batch can be drawn;"
                " add images of the missing modalities, or set the sampler to"
                ' "agnostic" or "natural".'
            )
        if num_identities > self.classes.size:
            raise InputError(
                f"A batch of {num_identities} identities cannot be drawn from the"
                f" {self.classes.size} identities that have an image in every modality;"
                f" set num_identities to {self.classes.size} or less, or use a larger"
                " data set."
            )

    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, (batches_per_epoch, batch_size) int64."""
        rng = np.random.default_rng([self.seed, epoch])
        labels = _even_groups(
            rng, self.classes.size, self.num_identities, self.batches_per_epoch
        ).ravel()
        visits = np.bincount(labels, minlength=self.classes.size)
        # A stable sort lists the visits of each class one after the other.
        by_class = np.argsort(labels, kind="stable")
        shape = (labels.size, self.num_modalities, self.num_images)
        records = np.empty(shape, np.int64)
        first = 0
        for label in np.flatnonzero(visits):
            rows = by_class[first : first + visits[label]]
            first += visits[label]
            for modality in range(self.num_modalities):
                group = label * self.num_modalities + modality
                images = _even_groups(
                    rng, self._counts[group], self.num_images, visits[label]
                )
                records[rows, modality] = self._records[self._starts[group] + images]
        return records.reshape(self.batches_per_epoch, self.batch_size)


class NaturalSampler(Sampler):
    """Batches of images as they are in the data, whatever identity and modality.

    Permutations of all images are laid end to end: modalities and identities come in
    proportion to their images, and their shares vary from batch to batch.
    """

    def __init__(self, identity: np.ndarray, *, batch_size: int, seed: int) -> None:
        """Keeps what is needed.

        Args:
            identity: the identity of each record, (N,) integers.
            batch_size: images in a batch.
            seed: not negative.
        """
        identity = np.asarray(identity)
        self.seed = seed
        super().__init__(
            identity, np.unique(identity), batch_size, identity.size // batch_size
        )

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        return _even_groups(
            rng, self._identity.size, self.batch_size, self.batches_per_epoch
        )


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

    Args:
        name: "balanced": P identities with K images in each of the M modalities;
            "agnostic": P identities with M * K images each, whatever their modality, as
            MCJA draws them; "natural": in proportion to the data. The share of a
            modality varies from batch to batch with all samplers but the first.
        identity: the identity of each record, (N,) integers.
        modality: the modality of each record, (N,) integers below ``num_modalities``.
        num_identities: P.
        num_images: K.
        seed: not negative.
        num_modalities: M.

    Raises:
        InputError: as `BalancedSampler`; natural batches can always be drawn.
    """
    if name == "natural":
        batch_size = num_modalities * num_identities * num_images
        return NaturalSampler(identity, batch_size=batch_size, seed=seed)
    if name == "agnostic":
        # As if all images were of one modality.
        num_images = num_modalities * num_images
        modality, num_modalities = np.zeros_like(modality), 1
    return BalancedSampler(
        identity,
        modality,
        num_identities=num_identities,
        num_images=num_images,
        seed=seed,
        num_modalities=num_modalities,
    )


def _even_groups(
    rng: np.random.Generator, size: int, group: int, count: int
) -> np.ndarray:
    """Deals ``count`` groups of numbers below ``size``, each number equally often.

    Permutations are laid end to end and cut into groups: how often two numbers occur
    differs by one at most. A group that lies across a seam is kept free of repetition
    by letting the numbers that it already holds come later in the next permutation.
    Only a group larger than ``size`` repeats numbers, again as evenly as possible.

    Returns:
        (count, group) int64.
    """
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
    return np.concatenate(laid)[: count * group].reshape(count, group)


def _check(
    identity: np.ndarray,
    modality: np.ndarray,
    num_identities: int,
    num_images: int,
    seed: int,
    num_modalities: int,
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
