import numpy as np
import pytest
from matplotlib.colors import to_hex

from mbn_jax.analysis.ranked_lists import RankedList, draw_ranked_lists, illustrate
from mbn_jax.evaluation import Ranking


def gray(value):
    return np.full((16, 8, 3), value, np.uint8)


def ranked_list(correct):
    count = len(correct)
    return RankedList(
        gray(0), "query.png", [gray(90)] * count, ["image.png"] * count, correct
    )


@pytest.mark.parametrize(
    ("correct", "heading", "color"),
    [(True, "1 ✓", "#1a9850"), (False, "1 ✗", "#d73027"), (None, "1", "#8a8a8a")],
)
def test_a_frame_tells_right_from_wrong_by_color_and_by_mark(correct, heading, color):
    figure = draw_ranked_lists([ranked_list([correct])], "title")
    query, first = figure.axes
    assert query.get_title() == "query"
    assert first.get_title() == heading
    assert {to_hex(s.get_edgecolor()) for s in first.spines.values()} == {color}


def test_lists_of_different_lengths_fit_one_figure():
    figure = draw_ranked_lists([ranked_list([True] * 10), ranked_list([False])], "two")
    figure.draw_without_rendering()
    assert len(figure.axes) == 11 + 2


def test_a_caption_is_shown_as_it_is_but_for_the_beginning_of_a_long_one():
    image = gray(0)
    ranked = RankedList(
        image, "$x_{$.png", [image], ["a/very/long/folder/name.png"], [None]
    )
    figure = draw_ranked_lists([ranked], "title")
    figure.draw_without_rendering()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["$x_{$.png", "…g/folder/name.png"]


def test_illustrate_takes_pictures_and_captions_of_the_right_images():
    identity, camera = np.array(["5", "anna"] * 2), np.array(["1", "1", "2", "yard"])
    ranking = Ranking(
        query=2, gallery=np.array([3, 0]), correct=np.array([False, True])
    )
    (ranked,) = illustrate(
        [ranking],
        lambda indices: np.stack([gray(index) for index in indices]),
        identity,
        camera,
    )
    assert ranked.query_caption == "id 5 · cam 2"
    assert ranked.captions == ["id anna · cam yard", "id 5 · cam 1"]
    assert [image[0, 0, 0] for image in (ranked.query, *ranked.gallery)] == [2, 3, 0]
    assert ranked.correct == [False, True]
