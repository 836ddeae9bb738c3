"""Configuration of evaluator."""

from typing import Literal

import pydantic

from models.baselines import BASELINES
from schemas.config import Config
from schemas.trajectory import SPLITS

EstimatorName = Literal["ips", "clipped_ips", "snips", "dm", "dr", "sndr", "switch_dr", "dr_os", "sub_gaussian_ips", "sub_gaussian_dr"]
"""Estimators of the reward of an event."""


class Force(Config):
    """Blesses whatever the checks say; the lineage keeps who and why."""

    by: str = pydantic.Field(min_length=1)
    """Who answers for it."""
    reason: str = pydantic.Field(min_length=10)
    """Why."""


class BlessingConfig(Config):
    """What a model must reach to be pushed."""

    metric: str = "ndcg@10"
    """Metric that models are compared by."""
    at_least: dict[str, float] = pydantic.Field(default_factory=dict)
    """Metric to the least value the model must have, such as {"coverage@10": 0.01}."""
    not_below_baselines: tuple[str, ...] = ("popularity",)
    """Baselines whose `metric` the model must reach."""
    against_last_blessed: bool = True
    """Compare with the last blessed model of the pipeline; false blesses without, such as after a change of the trajectories that
    it cannot read."""
    max_drop: float = pydantic.Field(default=0.02, ge=0.0)
    """Share of the last blessed model's `metric` that may be lost."""
    value_gate: Literal["required", "if_supported", "off"] = "if_supported"
    """Whether the estimated value decides: the lower bound of how far the candidate is above what is deployed (the last blessed model, or
    the policy that logged where there is none). `required`: a log that does not support the estimate blesses nothing; `if_supported`: it
    is passed over, and says so."""
    max_value_loss: float = pydantic.Field(default=0.02, ge=0.0)
    """Share of the deployed value down to which that lower bound may go below 0."""
    max_slice_drop: float | None = pydantic.Field(default=None, ge=0.0)
    """Share of the last blessed model's `metric` that any slice may lose, by the upper bound of its interval; null looks at no slice."""
    force: Force | None = None
    """Bless in spite of failed checks; needs a name and a reason."""

    @pydantic.field_validator("not_below_baselines")
    @classmethod
    def _baselines_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BASELINES:
                raise ValueError(f"unknown baseline {name!r}; known: {', '.join(sorted(BASELINES))}")
        return names


class OpeConfig(Config):
    """The value of the candidate, estimated from what was logged; what it is of stands in the key of every number.

    A ranker is made a policy that overlaps with the log: a share of all decisions stays as it was logged, the rest go evenly to its k
    best items. Both sides of a comparison are mixed alike.
    """

    enabled: bool = True
    estimators: tuple[EstimatorName, ...] = ("snips", "clipped_ips", "dm", "sndr")
    """Estimators of the reward of an event, beside the one that decides."""
    decided_by: EstimatorName = "snips"
    """Estimator by which the blessing compares."""
    as_logged: float = pydantic.Field(default=0.5, ge=0.0, lt=1.0)
    """Share of decisions that stay as they were logged."""
    k: int = pydantic.Field(default=10, ge=1, le=20)
    """Best items that share the other decisions."""
    propensities: Literal["auto", "logged", "estimated"] = "auto"
    """`logged`: those of the log, which must have them; `estimated`: those of a model of the logging policy, counted on other sessions;
    `auto`: logged where the log has them for every event."""
    num_folds: int = pydantic.Field(default=3, ge=2)
    """Folds of sessions for the models of the logging policy and of the reward."""
    min_propensity: float = pydantic.Field(default=1e-4, gt=0.0, lt=1.0)
    """Items that the logging policy shows more seldom have no support."""
    max_unsupported_mass: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)
    """Greatest probability of the candidate on items without support."""
    max_calibration_error: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """Greatest calibration error of an estimated logging policy."""
    min_sessions: int = pydantic.Field(default=100, ge=1)
    """Fewer sessions give no value."""
    min_effective_size: float = pydantic.Field(default=100.0, ge=0.0)
    """Least effective number of weights."""


class EvaluatorConfig(Config):
    """Full-catalogue ranking of every event, beside baselines, with intervals."""

    splits: tuple[str, ...] = ("test",)
    """Splits to rank; the model's verdict is by the last of them."""
    protocols: tuple[Literal["seen_kept", "seen_removed"], ...] = ("seen_kept",)
    """`seen_kept`: items of the session can be recommended again, as shops need it. `seen_removed`: they cannot; its metrics
    have `seen_removed/` in front of their keys."""
    min_history: int = pydantic.Field(default=1, ge=0)
    """Events with fewer events before them are not ranked; 0 ranks first events too."""
    num_resamples: int = pydantic.Field(default=1000, ge=1)
    """Bootstrap resamples of sessions."""
    max_states: int | None = pydantic.Field(default=None, ge=1)
    """Rank about this many events of a split; null ranks all."""
    ope: OpeConfig = OpeConfig()
    blessing: BlessingConfig = BlessingConfig()
    seed: int = 0
    """Seed of the bootstrap."""

    @pydantic.field_validator("splits")
    @classmethod
    def _splits_exist(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [split for split in splits if split not in SPLITS]
        if unknown or not splits:
            raise ValueError(f"expected one or more of {', '.join(SPLITS)}, found {', '.join(unknown) or 'none'}")
        return splits
