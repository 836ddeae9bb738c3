"""The simulated shop as a dataset: logs that need no download, of any size, from a world whose values are known."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic

from components.datasets.base import DatasetConfig, SimulatedSource, Source
from models.simulators.noise import AnyNoise
from models.simulators.session_shop import SessionShopConfig


class SessionShopDatasetConfig(DatasetConfig):
    """Logs of `models.simulators.session_shop` under its logging policy."""

    description: ClassVar[str] = "simulated shop with known long-term values, any number of events"

    name: Literal["session_shop"] = "session_shop"
    num_events: int = pydantic.Field(default=200_000, ge=1)
    """How many events to simulate; whole sessions are kept, so a few more come out."""
    seed: int = 0
    """Seed of users and their choices."""
    shop: SessionShopConfig = SessionShopConfig()
    """The shop itself."""
    noise: AnyNoise | None = None
    """What is done to the logged rewards, such as {name: thinning, kept: 0.2}; their mean stays, and so do events and returns of
    policies that are played in the shop."""

    def sources(self) -> tuple[Source, ...]:
        noise = self.noise.model_dump(mode="json") if self.noise is not None else None
        return (SimulatedSource(num_events=self.num_events, seed=self.seed, shop=self.shop.model_dump(mode="json"), noise=noise),)

    def external_state(self) -> Mapping[str, Any]:
        return {}
