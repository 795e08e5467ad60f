"""How often devices talk to each other, counted in the compiled program."""

import re

import pytest

from .layers import evaluate, make, random_variables
from .spreads import batch
from .styles import (
    STYLES,
    arguments,
    forward,
    program,
    shard_of_forward,
    shard_of_step,
    step,
)

# `%name = shape all-reduce(…)`; of a pair -start and -done the start counts.
COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?\S+ = .*? "
    r"(?:all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?:-start)?\(",
    re.MULTILINE,
)


def collectives(style, layer, spread, whole, shard):
    compiled = program(style, layer, whole, shard).lower(
        *arguments(style, random_variables(layer), batch(spread))
    )
    return len(COLLECTIVE.findall(compiled.compile().as_text()))


@pytest.mark.parametrize("spread", ["unequal", "unequally masked"])
@pytest.mark.parametrize("style", STYLES)
def test_forward_takes_at_most_two(kind, style, spread):
    layer = make(kind, features=4)
    count = collectives(style, layer, spread, forward, shard_of_forward)
    assert 1 <= count <= 2  # none would mean that nothing was found to count


def test_evaluating_takes_none(kind):
    layer = make(kind, features=4)
    placed = arguments("jit", random_variables(layer), batch("unequal"))
    variables, (x, modality, _, _) = placed
    compiled = evaluate.lower(layer, variables, x, modality).compile()
    assert not COLLECTIVE.findall(compiled.as_text())


@pytest.mark.parametrize("style", STYLES)
def test_forward_and_backward_take_at_most_four(kind, style):
    """One for the input's gradient; the parameters' and the loss may join it or not."""
    layer = make(kind, features=4)
    assert collectives(style, layer, "unequal", step, shard_of_step) <= 4


def test_pairs_of_start_and_done_count_once():
    program = """
      %all-reduce.1 = f32[2,2,4]{2,1,0} all-reduce(%a), channel_id=1
      ROOT %psum.2 = f32[4]{0} all-reduce(%all-reduce.1), channel_id=2
      %start = (f32[4]{0}, f32[8]{0}) all-gather-start(%b), channel_id=3
      %done = f32[8]{0} all-gather-done(%start)
      %fusion = f32[4]{0} fusion(%all-reduce.1, %done), calls=%all-reduce.2
    """
    assert len(COLLECTIVE.findall(program)) == 3
