"""Small worlds of every simulator that need no files, and the reference of each."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from models.simulators.base import Simulator
from models.simulators.reference import REFERENCES
from models.simulators.registry import SIMULATORS
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulatorConfig
from models.simulators.stitching import StitchingConfig
from models.simulators.virtual_taobao import WIDTHS, VirtualTaobaoConfig, VirtualTaobaoWeights


def random_weights(seed: int = 0) -> VirtualTaobaoWeights:
    """Weights that nobody learned, with which customers leave after 4 pages at most and click any number of times."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, dict[str, Any]] = {}
    for name, widths in WIDTHS.items():
        arrays[name] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            arrays[name][f"{2 * layer}.weight"] = rng.normal(0.0, 2.0 / inputs**0.5, (outputs, inputs)).astype(np.float32)
            arrays[name][f"{2 * layer}.bias"] = rng.normal(0.0, 0.3, outputs).astype(np.float32)
    arrays["leave_model"]["4.bias"][5:] -= 60.0
    return VirtualTaobaoWeights.from_arrays(arrays)


SMALL: dict[str, Callable[[], tuple[Any, ...]]] = {
    "session_shop": lambda: (ShopSimulatorConfig(shop=SessionShopConfig(num_items=12, num_clusters=3), max_steps=4),),
    "virtual_taobao": lambda: (VirtualTaobaoConfig(weights="nowhere", kept_clicks=0.7, temperature=2.0), random_weights()),
    "stitching": lambda: (StitchingConfig(slip=0.3),),
}
"""What the simulators of the registry are made of here; one that is not named is made of its defaults."""


def arguments_of(name: str) -> tuple[Any, ...]:
    made = SMALL.get(name)
    return made() if made else (SIMULATORS[name].config_class(),)


def simulator(name: str) -> Simulator:
    kind: Any = SIMULATORS[name]
    made: Simulator = kind(*arguments_of(name))
    return made


def reference(name: str) -> Any:
    return REFERENCES[name](*arguments_of(name))


def random_actions(made: Simulator, rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, ...] actions of a simulator, drawn evenly."""
    space = made.action_space
    shape = (count, *space.shape)
    if space.dtype is np.int32:
        return rng.integers(int(space.low), int(space.high), shape, dtype=np.int32, endpoint=True)
    return rng.uniform(space.low, space.high, shape).astype(np.float32)


def parts(observation: Any) -> dict[str, np.ndarray]:
    """The arrays of an observation by name."""
    return observation if isinstance(observation, dict) else {"": observation}
