"""Labels beside features: what cannot be true of a data set is refused."""

import numpy as np
import pytest

from mbn_jax.data.sources import source_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records, check_labels

WHOLE = {
    "sysu_mm01": [
        ("cam1/0006/0001.jpg", 6, 1, 0),
        ("data/SYSU-MM01/cam3/0006/0002.jpg", 6, 3, 1),
    ],
    "regdb": [
        ("Visible/285/male_back_v_05528_285.bmp", 285, 1, 0),
        ("Thermal/285/male_back_t_05528_285.bmp", 285, 2, 1),
    ],
    "llcm": [
        ("test_vis/cam3/0006/a.jpg", 6, 3, 0),
        ("test_nir/cam4/0006/a.jpg", 6, 4, 1),
    ],
}


def records(rows, **others):
    name, identity, camera, modality = zip(*rows, strict=True)
    return Records(
        **others,
        name=np.array(name),
        identity=np.array(identity),
        camera=np.array(camera),
        modality=np.array(modality),
    )


def check(family, found):
    return check_labels(found, source_of(family).labels)


@pytest.mark.parametrize("family", WHOLE)
def test_what_agrees_is_accepted_without_a_word(family):
    assert check(family, records(WHOLE[family])) is None


@pytest.mark.parametrize("family", WHOLE)
def test_another_identity_than_the_path_says_is_refused(family):
    rows = [(name, 1, camera, m) for name, _, camera, m in WHOLE[family]]
    with pytest.raises(
        InputError, match=r"In 2 of 2 rows .* identity of .* is 1, .*not"
    ):
        check(family, records(rows))


@pytest.mark.parametrize(
    ("family", "label", "value", "message"),
    [
        ("sysu_mm01", 2, 6, "camera of .*cam3/0006/0002.jpg is 6, but its path says 3"),
        ("sysu_mm01", 2, 4, "infrared images of camera 4, .* cameras are 3, 6"),
        ("sysu_mm01", 3, 0, "2 visible and 0 infrared images"),
        ("regdb", 2, 1, "infrared images of camera 1, .* cameras are 2"),
        ("llcm", 2, 5, "camera of .* is 5, but its path says 4"),
        ("llcm", 2, 0, "infrared images of camera 0, "),
    ],
)
def test_other_contradictions_are_refused(family, label, value, message):
    visible, infrared = WHOLE[family]
    infrared = (*infrared[:label], value, *infrared[label + 1 :])
    with pytest.raises(InputError, match=message):
        check(family, records([visible, infrared]))


def test_swapped_modalities_are_refused():
    rows = [(name, i, camera, 1 - m) for name, i, camera, m in WHOLE["llcm"]]
    with pytest.raises(InputError, match=r"modality of .* is 1, but its path says 0"):
        check("llcm", records(rows))


@pytest.mark.parametrize("name", ["0006_c1_0001.jpg", "cam1/0006/0001", "1"])
def test_names_that_are_no_paths_are_warned_of(name):
    rows = [(name, 6, 1, 0), WHOLE["sysu_mm01"][1]]
    warning = check("sysu_mm01", records(rows))
    assert f"1 of 2 names, {name!r} for example" in warning
    assert "cam3/0006/0001.jpg" in warning


def test_of_other_data_only_all_modalities_are_asked():
    rows = [("a", 1, 9, 0), ("b", 1, 9, 1)]
    assert check_labels(records(rows), None) is None
    with pytest.raises(InputError, match="0 visible and 1 infrared"):
        check_labels(records(rows[1:]), None)
    with pytest.raises(
        InputError,
        match=r"1 visible and 1 nir and 0 thermal images.* 1 for nir, 2 for thermal",
    ):
        check_labels(records(rows, modalities=("visible", "nir", "thermal")), None)
