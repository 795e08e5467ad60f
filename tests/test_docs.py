"""The code that readers will copy runs, and what the pages point to exists."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mbn_jax import ModalityBatchNorm
from mbn_jax.training.config import default_config, flatten

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def code_blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_layer_in_the_readme_runs():
    namespace = {}
    exec(code_blocks("README.md")[0], namespace)
    assert namespace["y"].shape == (8, 16, 16, 64)
    assert namespace["updates"]["batch_stats"]["mean"].shape == (2, 64)


def test_the_network_and_the_mapped_step_in_the_layers_page_run():
    _, block, mapped = code_blocks("docs/layer.md")
    namespace = dict(
        jax=jax, nn=nn, P=P, functools=functools, ModalityBatchNorm=ModalityBatchNorm
    )
    exec(block, namespace)
    x, modality = jnp.ones((16, 4, 4, 3)), jnp.arange(16) % 2
    model = namespace["Block"](features=5)
    variables = model.init(jax.random.key(0), x, modality, train=True)
    assert model.apply(variables, x, modality, train=False).shape == (16, 4, 4, 5)
    exec(mapped, namespace)
    variables = namespace["layer"].init(jax.random.key(0), x, modality, False)
    y, updates = namespace["train_forward"](variables, x, modality)
    assert y.shape == x.shape
    assert updates["batch_stats"]["mean"].shape == (2, 3)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_keys_that_the_training_page_names_exist():
    known = flatten(default_config().to_dict())
    text = (ROOT / "docs" / "training.md").read_text()
    table = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    keys = re.findall(r"`([a-z]+\.[a-z_]+)`", " ".join(table))
    for key in set(keys) - {"results.json", "config.json", "environment.json"}:
        assert key in known or key == "metrics.jsonl", key
