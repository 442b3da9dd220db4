"""Cells of like size, however much was seen in each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.agent.memory.coverage import cells, places


def test_what_is_rare_has_a_cell_of_its_own() -> None:
    rng = np.random.default_rng(0)
    crowd, few = rng.normal(size=(5000, 2)), rng.normal((50.0, 0.0), size=(5, 2))
    found = cells(np.concatenate([crowd, few]).astype(np.float32), 8, rng)
    assert len(set(found[5000:]) & set(found[:5000])) == 0


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), kinds=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_there_are_as_many_cells_as_places_or_as_wanted(seed: int, count: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(kinds, 3)).astype(np.float32)[rng.integers(kinds, size=200)]
    found = cells(points, count, rng)
    different = len(np.unique(points, axis=0))
    assert len(np.unique(found)) == min(count, different)
    if count >= different:
        assert len(np.unique(np.column_stack([found, points]), axis=0)) == different, "one for each"


def test_cells_are_found_among_some_of_many_points() -> None:
    points = np.arange(1000, dtype=np.float32)[:, None]
    found = cells(points, 10, np.random.default_rng(0), among=100)
    assert (np.bincount(found) > 20).all()
    assert (np.diff(found) != 0).sum() == 9, "cells are stretches of the line"


def test_the_same_draws_give_the_same_cells() -> None:
    points = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    first, again, other = (cells(points, 16, np.random.default_rng(s), among=50) for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_vectors_are_places_and_pictures_are_told_apart_by_their_newest_frame() -> None:
    assert places(np.ones((5, 2, 3))).shape == (5, 6)
    pictures = np.zeros((3, 16, 16, 6), np.uint8)
    pictures[1, :4, :4, 3] = 255  # red in a corner of the newest frame
    pictures[2, :, :, :3] = 255
    seen = places(pictures)
    assert seen.shape == (3, 48)
    assert seen[1].max() == pytest.approx(1)
    assert seen[1].sum() == pytest.approx(1)
    assert (seen[0] == seen[2]).all(), "what the older frame shows says nothing"
