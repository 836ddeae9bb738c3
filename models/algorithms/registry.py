"""Every algorithm; a new one is a file and a line here."""

from typing import TYPE_CHECKING, Annotated, Union

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig
from models.algorithms.bc import BC
from models.algorithms.bc_proxy import BCProxy
from models.algorithms.bcq import BCQ
from models.algorithms.cdt4rec import CDT4Rec
from models.algorithms.cql import CQL
from models.algorithms.decision_transformer import DecisionTransformer
from models.algorithms.dqn import DQN
from models.algorithms.dt4rec import DT4Rec
from models.algorithms.edt4rec import EDT4Rec
from models.algorithms.ensemble import Ensemble
from models.algorithms.mcrl import MCRL
from models.algorithms.reinforce import Reinforce
from models.algorithms.rem import REM
from models.algorithms.sa2c import SA2C
from models.algorithms.sac import SAC
from models.algorithms.snqn import SNQN
from models.algorithms.sqn import SQN
from schemas.registry import Registry

ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm",
    {
        "bc": BC,
        "bc_proxy": BCProxy,
        "dqn": DQN,
        "sqn": SQN,
        "sac": SAC,
        "snqn": SNQN,
        "sa2c": SA2C,
        "reinforce": Reinforce,
        "bcq": BCQ,
        "cql": CQL,
        "rem": REM,
        "ensemble": Ensemble,
        "mcrl": MCRL,
        "decision_transformer": DecisionTransformer,
        "dt4rec": DT4Rec,
        "cdt4rec": CDT4Rec,
        "edt4rec": EDT4Rec,
    },
)

if TYPE_CHECKING:
    AnyAlgorithm = AlgorithmConfig
else:
    AnyAlgorithm = Annotated[
        Union[tuple(algorithm.config_class for algorithm in ALGORITHMS.values())], pydantic.Field(discriminator="name")
    ]
