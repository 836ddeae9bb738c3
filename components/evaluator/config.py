"""Configuration of evaluator."""

from typing import Literal

import pydantic

from models.baselines import BASELINES
from schemas.config import Config
from schemas.trajectory import SPLITS

EstimatorName = Literal[
    "ips",
    "clipped_ips",
    "snips",
    "dm",
    "dr",
    "sndr",
    "switch_dr",
    "dr_os",
    "sub_gaussian_ips",
    "sub_gaussian_dr",
    "tis",
    "sntis",
    "pdis",
    "snpdis",
    "sequential_dr",
    "wdr",
]
"""Estimators by their names in `models.ope.registry`; those from `tis` on are of whole sessions. Not `magic`: what it resamples is
`wdr`, so paired differences, by which the evaluator compares, would be those of `wdr`."""
SEQUENTIAL: tuple[EstimatorName, ...] = ("tis", "sntis", "pdis", "snpdis", "sequential_dr", "wdr")


ProtocolName = Literal["seen_kept", "seen_removed"]
SEEN_REMOVED = "seen_removed/"
"""In front of the keys of metrics under that protocol."""


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
    is passed over, and says so, unless it contradicts its propensities: logged ones by `max_mean_weight`, modelled ones by a calibration
    error beyond what chance explains."""
    max_mean_weight: float = pydantic.Field(default=3.0, gt=1.0)
    """Mean importance weight beyond which logged propensities are held to be wrong. Logs hold what visitors acted on, so a candidate whose
    items are acted on more often than those that were shown has a mean above 1 with the right ones, too."""
    max_value_loss: float = pydantic.Field(default=0.02, ge=0.0)
    """Share of the deployed value down to which that lower bound may go below 0."""
    min_coverage_ratio: float | None = pydantic.Field(default=2.0, ge=0.0)
    """How many times the coverage@10 of popularity, which recommends the same to everybody, the model must have; half the catalogue is
    enough in any case. Null does not ask."""
    max_coverage_drop: float | None = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    """Share of the last blessed model's coverage@10 that may be lost; null does not ask."""
    max_value_size: float | None = pydantic.Field(default=1.0, gt=0.0)
    """Greatest mean size of learned values at the end of the training, as a share of the greatest return that the rewards allow; null does
    not ask, and a method without values is not asked."""
    max_slice_drop: float | None = pydantic.Field(default=0.2, ge=0.0)
    """Share of the deployed model's `metric`, or of the deployed value, that any slice may lose. A slice fails when it has certainly lost
    more: by the upper bound of its interval, widened for the number of slices. Null looks at no slice."""
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

    A ranker is made a policy that overlaps with the log: a share of all decisions stays as it was logged, the rest go to its k best
    items. Both sides of a comparison are mixed alike.

    Three values are estimated. `event`: the reward of an event. `return`: the return from an event on, if that one decision is the
    policy's and all later ones are as they were logged; where it is above that of the logging policy in every state, the policy is better
    in the long run. `session`: the return of a session whose every decision is the policy's, by the sequential estimators.
    """

    enabled: bool = True
    estimators: tuple[EstimatorName, ...] = ("snips", "clipped_ips", "dm", "sndr", "snpdis")
    """Estimators beside the one that decides."""
    decided_by: EstimatorName = "sndr"
    """Estimator by which the blessing compares."""
    decided_on: Literal["event", "return"] = "return"
    """What it compares; a sequential estimator compares sessions."""
    as_logged: float = pydantic.Field(default=0.5, ge=0.0, lt=1.0)
    """Share of decisions that stay as they were logged."""
    as_random: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Share of decisions that are drawn evenly from the catalogue; it has support only where the logging policy explored."""
    k: int = pydantic.Field(default=10, ge=1, le=20)
    """Best items that share the other decisions."""
    temperature: float | None = pydantic.Field(default=None, gt=0.0)
    """How they share them: by exp(-place / temperature), place 0 for the best; null for evenly."""
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

    @pydantic.model_validator(mode="after")
    def _leave_decisions_to_the_ranker(self) -> "OpeConfig":
        if self.as_logged + self.as_random >= 1.0:
            raise ValueError(f"as_logged {self.as_logged:g} and as_random {self.as_random:g} leave no decision to the ranker")
        return self

    @property
    def key(self) -> str:
        """What a ranker is turned into, as it stands in front of a value: `top10_logged@0.5`."""
        parts = [f"top{self.k}" + ("" if self.temperature is None else f"@{self.temperature:g}"), f"logged@{self.as_logged:g}"]
        return "_".join([*parts, f"random@{self.as_random:g}"] if self.as_random else parts)

    @property
    def decider(self) -> str:
        """Key of the value that the blessing compares, such as `return/sndr`."""
        return f"{'session' if self.decided_by in SEQUENTIAL else self.decided_on}/{self.decided_by}"


SLICES = ("step", "item", "session", "user", "feedback")
"""What is in front of the names of the slices by what trajectories hold; see `components.evaluator.slices.slice_masks`."""


class SliceTable(Config):
    """A feature of items or users that the trajectories do not hold; events are sliced by it."""

    name: str = pydantic.Field(min_length=1)
    """Name of the feature, in front of its values."""
    path: str
    """Delimited file with a header, plain or compressed."""
    of: Literal["item", "user"]
    """What has the feature."""
    key_column: str
    """Column of item or user ids, as in the log."""
    column: str
    """Column of the feature, as text."""
    max_values: int = pydantic.Field(default=8, ge=1)
    """Most frequent values that are a slice each; the others are `other` together."""


class EvaluatorConfig(Config):
    """Full-catalogue ranking of every event, beside baselines, with intervals."""

    splits: tuple[str, ...] = ("test",)
    """Splits to rank; the model's verdict is by the last of them."""
    protocols: tuple[ProtocolName, ...] = ("seen_kept",)
    """`seen_kept`: items of the session can be recommended again, as shops need it. `seen_removed`: they cannot; its metrics
    have `seen_removed/` in front of their keys. Slices and the estimated value are by the protocol of `blessing.metric`."""
    min_history: int = pydantic.Field(default=1, ge=0)
    """Events with fewer events before them are not ranked; 0 ranks first events too."""
    num_resamples: int = pydantic.Field(default=1000, ge=1)
    """Bootstrap resamples of sessions."""
    max_states: int | None = pydantic.Field(default=None, ge=1)
    """Rank about this many events of a split; null ranks all."""
    ope: OpeConfig = OpeConfig()
    slices: tuple[SliceTable, ...] = ()
    """Features to slice by, besides those of the trajectories: place in the session, popularity of the item, length of the session,
    activity of the user, feedback."""
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

    @pydantic.field_validator("slices")
    @classmethod
    def _slices_have_names_of_their_own(cls, slices: tuple[SliceTable, ...]) -> tuple[SliceTable, ...]:
        names = [table.name for table in slices]
        twice = sorted({name for name in names if names.count(name) > 1})
        taken = [name for name in names if name.partition("/")[0] in SLICES]
        if twice:
            raise ValueError(f"two tables are called {', '.join(twice)}; their slices could not be told apart")
        if taken:
            raise ValueError(f"tables are called {', '.join(taken)}, but slices of the trajectories begin with {', '.join(SLICES)}")
        return slices

    @property
    def decisive_protocol(self) -> ProtocolName:
        """The protocol of the metric that models are compared by; the first one where that is not measured."""
        wanted: ProtocolName = "seen_removed" if self.blessing.metric.startswith(SEEN_REMOVED) else "seen_kept"
        return wanted if wanted in self.protocols else self.protocols[0]
