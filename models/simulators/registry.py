"""Every simulator; a new one is a file, a line here and a line in `reference.py`."""

from typing import TYPE_CHECKING, Annotated, Union

import pydantic

from models.simulators.base import Simulator, SimulatorConfig
from models.simulators.shop_simulator import ShopSimulator
from models.simulators.stitching import Stitching
from models.simulators.virtual_taobao import VirtualTaobao
from schemas.registry import Registry

SIMULATORS: Registry[type[Simulator]] = Registry(
    "simulator", {"session_shop": ShopSimulator, "virtual_taobao": VirtualTaobao, "stitching": Stitching}
)

if TYPE_CHECKING:
    AnySimulator = SimulatorConfig
else:
    AnySimulator = Annotated[
        Union[tuple(simulator.config_class for simulator in SIMULATORS.values())], pydantic.Field(discriminator="name")
    ]
