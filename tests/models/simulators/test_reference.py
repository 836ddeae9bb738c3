"""The batched simulators against the one written one session at a time from the description, over many sessions."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.environments import read_weights
from models.simulators.base import Simulator
from models.simulators.chance import BEGIN, STEP, Chance
from models.simulators.reference import ReferenceShop, ReferenceVirtualTaobao
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulator, ShopSimulatorConfig
from models.simulators.virtual_taobao import VirtualTaobao, VirtualTaobaoConfig

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_worlds")


def assert_same_sessions(simulator: Simulator, reference: Any, actions: np.ndarray, seed: int) -> int:
    """Plays actions [turns, S, ...] until every session is over or there are no more; returns how many steps were compared."""
    chance, session = Chance(seed), np.arange(actions.shape[1])
    begin = chance.uniform(BEGIN, session, 0, simulator.num_begin_draws)
    state, alive, steps = simulator.begin(begin), np.ones(len(session), np.bool_), 0
    seen, moved, drawn = [toy.parts(simulator.observe(state))], [], []
    for turn, action in enumerate(actions):
        drawn.append(chance.uniform(STEP, session, turn, simulator.num_step_draws))
        moved.append(simulator.step(state, action, drawn[-1]))
        state = moved[-1].state
        seen.append(toy.parts(simulator.observe(state)))
    for row in session:
        reference.begin(begin[row].tolist())
        for turn in range(len(actions) + 1):
            for name, value in toy.parts(reference.observe()).items():
                np.testing.assert_array_equal(seen[turn][name][row], np.asarray(value, seen[turn][name].dtype), err_msg=f"{row} {turn}")
            if turn == len(actions):
                break
            reward, ended = reference.step(actions[turn, row], drawn[turn][row].tolist())
            assert (moved[turn].reward[row], moved[turn].is_last[row]) == (reward, ended), f"session {row}, turn {turn}"
            steps += 1
            if ended:
                alive[row] = False
                break
    assert alive.mean() < 0.5
    return steps


@pytest.mark.parametrize("baits", [0, 3])
def test_the_shop(baits: int) -> None:
    config = ShopSimulatorConfig(shop=SessionShopConfig(num_items=14, num_clusters=3, num_baits=baits), max_steps=3)
    rng = np.random.default_rng(0)
    # Actions of few items, so that items are shown again after a click and after a purchase.
    actions = np.where(rng.random((60, 500)) < 0.8, rng.integers(0, 2, 500), rng.integers(0, 14, (60, 500))).astype(np.int32)
    assert assert_same_sessions(ShopSimulator(config), ReferenceShop(config), actions, seed=1) > 4_000


@pytest.mark.data
@pytest.mark.parametrize(("temperature", "kept"), [(1.0, 1.0), (300.0, 0.4)])
def test_virtual_taobao(data_folder: Path, temperature: float, kept: float) -> None:
    folder = data_folder / "virtual_taobao"
    if not folder.is_dir():
        pytest.skip(f"no weights of Virtual Taobao: {folder} does not exist; set LONGPLAY_DATA")
    config = VirtualTaobaoConfig(weights=str(folder), temperature=temperature, kept_clicks=kept)
    weights = read_weights(folder)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (25, 200, 27)).astype(np.float32)
    assert assert_same_sessions(VirtualTaobao(config, weights), ReferenceVirtualTaobao(config, weights), actions, seed=2) > 1_000
