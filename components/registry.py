"""Every component; a new one is a folder and a line here."""

from components.base import Component
from components.evaluator.component import EVALUATOR
from components.example_validator.component import EXAMPLE_VALIDATOR
from components.exporter.component import EXPORTER
from components.infra_validator.component import INFRA_VALIDATOR
from components.neighbour_gen.component import NEIGHBOUR_GEN
from components.online_tuner.component import ONLINE_TUNER
from components.pusher.component import PUSHER
from components.relabeller.component import RELABELLER
from components.reward_trainer.component import REWARD_TRAINER
from components.schema_gen.component import SCHEMA_GEN
from components.statistics_gen.component import STATISTICS_GEN
from components.trainer.component import TRAINER
from components.trajectory_gen.component import TRAJECTORY_GEN
from components.user_model_trainer.component import USER_MODEL_TRAINER
from schemas.registry import Registry

COMPONENTS: Registry[Component] = Registry(
    "component",
    {
        "trajectory_gen": TRAJECTORY_GEN,
        "statistics_gen": STATISTICS_GEN,
        "schema_gen": SCHEMA_GEN,
        "example_validator": EXAMPLE_VALIDATOR,
        "neighbour_gen": NEIGHBOUR_GEN,
        "reward_trainer": REWARD_TRAINER,
        "user_model_trainer": USER_MODEL_TRAINER,
        "relabeller": RELABELLER,
        "trainer": TRAINER,
        "online_tuner": ONLINE_TUNER,
        "evaluator": EVALUATOR,
        "exporter": EXPORTER,
        "infra_validator": INFRA_VALIDATOR,
        "pusher": PUSHER,
    },
)
