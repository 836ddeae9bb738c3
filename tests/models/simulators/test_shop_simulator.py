"""The shop as a simulator: what a policy sees is what stands in logs."""

import numpy as np
import pytest

from models.simulators.base import Sessions
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulator, ShopSimulatorConfig


@pytest.fixture(scope="module")
def simulator() -> ShopSimulator:
    return ShopSimulator(ShopSimulatorConfig(shop=SessionShopConfig(num_items=12, num_clusters=3), max_steps=3))


def moved(simulator: ShopSimulator, item: int, u: float, history: list[int], shop: int) -> tuple[float, list[int], int]:
    """Reward, history and state after showing an item to one visitor, given the chance of the outcome."""
    padded = np.array([history + [0] * (3 - len(history))], np.int32)
    state = {"shop": np.array([shop]), "item_history": padded, "length": np.array([len(history)], np.int32)}
    reward, _, after = simulator.step(state, np.array([item], np.int32), np.array([[u, 0.99]]))
    assert state["item_history"].tolist() == padded.tolist()
    seen = simulator.observe(after)
    assert isinstance(seen, dict)
    length = int(seen["length"][0])
    assert seen["item_history"][0, length:].tolist() == [0] * (3 - length)
    return float(reward[0]), seen["item_history"][0, :length].tolist(), int(after["shop"][0])


def test_what_is_clicked_and_bought_is_seen_and_what_is_passed_is_not(simulator: ShopSimulator) -> None:
    # Item i is seen as id i + 1. At the beginning item 0 is clicked with .35, after its click it is bought with .4.
    assert moved(simulator, 0, 0.34, [], 0) == (0.2, [1], 1)
    assert moved(simulator, 0, 0.36, [], 0) == (0.0, [], 0)
    assert moved(simulator, 0, 0.39, [1], 1) == (1.0, [1, 1], 2)
    assert moved(simulator, 0, 0.41, [1], 1) == (0.0, [1], 1)


def test_a_full_history_loses_its_oldest_item(simulator: ShopSimulator) -> None:
    # Item 3 is of the cluster of item 0 and of rank 1: .55 * (.4 + .6 / sqrt(2)) = .453.
    assert moved(simulator, 3, 0.45, [8, 1], 1) == (0.2, [8, 1, 4], 7)
    assert moved(simulator, 3, 0.45, [8, 5, 1], 1) == (0.2, [5, 1, 4], 7)
    assert moved(simulator, 3, 0.46, [8, 5, 1], 1) == (0.0, [8, 5, 1], 1)


def test_rows_keep_histories_of_their_own(simulator: ShopSimulator) -> None:
    sessions, rng = Sessions(simulator, 50, seed=0), np.random.default_rng(0)
    histories: list[list[int]] = [[] for _ in range(50)]
    for _ in range(100):
        item = rng.integers(0, 10, 50)
        progress = sessions.step(item)
        seen = sessions.observe()
        assert isinstance(seen, dict)
        for row in range(50):
            if progress.is_first[row]:
                histories[row] = []
            elif progress.reward[row] > 0:
                histories[row].append(int(item[row]) + 1)
            length = int(seen["length"][row])
            assert seen["item_history"][row, :length].tolist() == histories[row][-3:]
