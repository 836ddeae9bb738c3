"""Chance by place: the published generator, and numbers that depend on nothing but their place."""

import numpy as np
import pytest

from models.simulators.chance import BEGIN, POLICY, STEP, Chance, philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers of the authors' library Random123, philox4x32-10.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_the_generator_gives_the_published_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = philox(tuple(np.array([word], np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == expected


def test_a_number_depends_on_its_place_alone() -> None:
    sessions = np.array([5, 0, 2**40 + 5, 17])
    turns = np.array([3, 0, 3, 9])
    together = Chance(7).uniform(STEP, sessions, turns, 5)
    for row in range(4):
        np.testing.assert_array_equal(Chance(7).uniform(STEP, sessions[row : row + 1], int(turns[row]), 5)[0], together[row])
    # Nor on how many are drawn.
    np.testing.assert_array_equal(Chance(7).uniform(STEP, sessions, turns, 2), together[:, :2])
    assert Chance(7).uniform(STEP, sessions, turns, 0).shape == (4, 0)


def test_every_part_of_a_place_matters() -> None:
    def first(seed: int, purpose: int, session: int, turn: int) -> float:
        return float(Chance(seed).uniform(purpose, np.array([session]), turn, 1)[0, 0])

    places = [
        *[(seed, STEP, 0, 0) for seed in (0, 1, 2**32, 2**64 - 1)],
        *[(0, BEGIN, 0, 0), (0, POLICY, 0, 0), (0, STEP, 1, 0), (0, STEP, 2**32, 0), (0, STEP, 0, 1)],
    ]
    assert len({first(*place) for place in places}) == len(places)


def test_numbers_are_even_and_unrelated() -> None:
    drawn = Chance(3).uniform(STEP, np.arange(50_000), 4, 4)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.stack([np.bincount((column * 20).astype(int), minlength=20) for column in drawn.T])
    # Chi-square with 19 degrees of freedom stays below 45 with probability .9993.
    assert ((counts - 2_500) ** 2 / 2_500).sum(axis=1).max() < 45.0
    # Columns, neighbouring sessions and neighbouring turns; the standard error of a correlation is 1 / sqrt(50,000) = .0045.
    others = [drawn[:, 1], np.roll(drawn[:, 0], 1), Chance(3).uniform(STEP, np.arange(50_000), 5, 1)[:, 0]]
    for other in others:
        assert abs(np.corrcoef(drawn[:, 0], other)[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_is_an_error(seed: int) -> None:
    with pytest.raises(ValueError, match=f"found {seed}"):
        Chance(seed)
