"""The order of modalities, by their names."""

import pytest

from mbn_jax.errors import InputError
from mbn_jax.modalities import has_color, index, ordered


def test_modalities_with_color_come_first_and_each_kind_is_in_alphabetical_order():
    names = ["thermal", "visible", "nir", "Colour", "visible"]
    assert ordered(names) == ("Colour", "visible", "nir", "thermal")
    assert [has_color(name) for name in ("RGB", "color", "infrared")] == [1, 1, 0]


def test_a_name_that_does_not_exist_is_refused_with_those_that_do():
    assert index("infrared") == 1
    with pytest.raises(InputError, match="'nir'; expected one of visible, infrared"):
        index("nir")
