"""The benchmark of the training step takes the configurations that it says."""

import pytest
from flax.traverse_util import flatten_dict

from benchmarks import step_candidates as candidates
from mbn_jax.training.config import default_config


def sizes_of(name):
    network = candidates.NETWORKS[name]
    sizes = {key: getattr(network, key) for key in ("batch", "height", "width")}
    return {"network": name, "dtype": "float32", **sizes}


def test_the_quick_network_has_the_configuration_of_the_quick_run():
    config = candidates.make_config(sizes_of("quick"), {}, augmented=True)
    ours, expected = (
        flatten_dict(c.to_dict(), sep=".") for c in (config, default_config())
    )
    assert ours == expected


@pytest.mark.parametrize("name", ["resnet50", "quick"])
def test_without_augmentation_every_part_of_it_is_off(name):
    config = candidates.make_config(sizes_of(name), {})
    assert not any(config.augmentation.values())


@pytest.mark.parametrize("name", ["resnet50", "quick"])
def test_a_batch_has_as_many_images_of_every_identity_and_modality(name):
    sizes = sizes_of(name)
    config = candidates.make_config(sizes, {})
    batch = candidates.make_batch({**sizes, "height": 2, "width": 2})
    pairs = list(zip(batch["identity"], batch["modality"], strict=True))
    assert len(set(pairs)) == 2 * config.batch.num_identities
    assert all(pairs.count(pair) == config.batch.num_images for pair in pairs)
