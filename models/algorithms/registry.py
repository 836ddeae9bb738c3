"""Every algorithm; a new one is a file and a line here."""

from typing import TYPE_CHECKING, Annotated, Union

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig
from models.algorithms.bc import BC
from models.algorithms.sqn import SQN
from schemas.registry import Registry

ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", {"bc": BC, "sqn": SQN})

if TYPE_CHECKING:
    AnyAlgorithm = AlgorithmConfig
else:
    AnyAlgorithm = Annotated[
        Union[tuple(algorithm.config_class for algorithm in ALGORITHMS.values())], pydantic.Field(discriminator="name")
    ]
