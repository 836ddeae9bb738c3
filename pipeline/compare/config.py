"""Configuration of a comparison, and the models it stands for."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pydantic

from components.online_tuner.config import OnlineTunerConfig
from components.relabeller.config import RelabellerConfig
from components.reward_trainer.config import RewardTrainerConfig
from components.trainer.config import TrainerConfig
from components.user_model_trainer.config import UserModelTrainerConfig
from models.algorithms.registry import ALGORITHMS, AnyAlgorithm
from models.backbones.registry import BACKBONES, AnyBackbone
from models.baselines import BASELINES
from models.metrics.ranking import metric_names
from pipeline.config import PipelineConfig
from schemas.config import Config, ConfigError, decode, load_plain
from schemas.registry import suggestion

SIMULATED = "session_shop"
"""The data set whose world can be asked for the return of a policy."""
DEFAULT_REFERENCE = "bc"


class GridConfig(Config):
    """Some algorithms on some backbones, each trained from some seeds."""

    algorithms: tuple[AnyAlgorithm, ...] = ()
    """Names, or mappings of a name and its settings; `all` is every known one. A name takes the settings of the base if the base
    configures that algorithm, a mapping takes none. Without it: the base's algorithm."""
    backbones: tuple[AnyBackbone, ...] = ()
    """Names or mappings, as with algorithms; without it: the base's backbone."""
    seeds: tuple[int, ...] = pydantic.Field(default=(0,), min_length=1)
    """Each seed is a training of its own."""
    label: str | None = pydantic.Field(default=None, min_length=1)
    """Name of the row; of several algorithms it stands behind each one's name. Without it: the algorithm's name."""
    trainer: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values of the trainer section that differ from the base's, such as {network: {copy_head: false}}."""
    relabeller: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values of the relabeller section that differ from the base's; {enabled: true} trains on returns that a conservative value
    function raised, which is trained once for all seeds. Evaluation keeps the returns as logged."""
    reward_trainer: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values of the reward_trainer section that differ from the base's, for rows with {trainer: {reward: {source: pretrained}}}; a model
    is trained once for all seeds."""
    user_model_trainer: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values of the user_model_trainer section that differ from the base's, for rows with {trainer: {imagination: {...}}}; a model is
    trained once for all seeds."""
    online_tuner: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values of the online_tuner section that differ from the base's; {enabled: true} goes on online after training, and what is
    measured is the tuned model. Its seed is that of the training."""
    vary: dict[str, tuple[Any, ...]] = pydantic.Field(default_factory=dict)
    """Keys of the trainer section with the values that each takes, such as {network.width: [32, 64], algorithm.discount: [0.5, 0.9]}:
    every combination is a row, and its name says which. Keys of `algorithm` and `network.backbone` are settings of all algorithms
    and backbones of the grid; those of the other sections have their names in front, such as relabeller.enabled: [false, true]."""

    @pydantic.field_validator("vary")
    @classmethod
    def _varied_are_settings(cls, vary: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in vary.items():
            if not values:
                raise ValueError(f"{key}: expected at least one value")
            if any(isinstance(value, dict) for value in values):
                raise ValueError(f"{key}: expected single values, found a mapping; vary what is in it by dotted keys, such as {key}.KEY")
            place = {"algorithm": "algorithms", "seed": "seeds", "network.backbone": "backbones"}.get(key.removesuffix(".name"))
            if place:
                raise ValueError(f"{key} does not belong here; it is given by `{place}` of the grid")
            within = [other for other in vary if other.startswith(f"{key}.")]
            if within:
                raise ValueError(f"{key} holds {within[0]}; vary one of them")
        return vary

    @pydantic.field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ from each other, found {', '.join(map(str, seeds))}")
        return seeds

    @pydantic.field_validator("trainer")
    @classmethod
    def _trainer_leaves_the_grid_alone(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        network = trainer.get("network")
        for name in _SECTIONS:
            if name in trainer:
                raise ValueError(f"{name} does not belong here; it stands beside `trainer` in the grid")
        given = {"algorithm": "algorithm" in trainer, "seed": "seed" in trainer}
        given["network.backbone"] = isinstance(network, dict) and "backbone" in network
        places = {"algorithm": "algorithms", "seed": "seeds", "network.backbone": "backbones"}
        for key, is_given in given.items():
            if is_given:
                raise ValueError(f"{key} does not belong here; it is given by `{places[key]}` of the grid")
        return trainer


class SimulateConfig(Config):
    """Return of the policies in the simulated shop, whose visitors come and go as those of the logs did."""

    num_sessions: int = pydantic.Field(default=2_000, ge=2)
    """Visitors; the same for every policy, with the same chance."""
    seed: int = 0
    """Seed of what the visitors do."""
    discount: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """Factor of one item shown."""
    max_turns: int = pydantic.Field(default=200, ge=1)
    """Most items shown in a session; the leaderboard says how many sessions came to that end."""
    target_returns: tuple[float, ...] = ()
    """Sums of rewards that policies conditioned on a return are also asked for, each in a row of its own; the model's own row is of
    what it asks for by itself, a quantile of the logs."""
    draw: bool = False
    """Also play policies conditioned on a return by drawing every item with its probability, in rows of their own; else the best
    item is shown."""

    @pydantic.field_validator("target_returns")
    @classmethod
    def _targets_differ(cls, targets: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError(f"target returns must differ from each other, found {', '.join(f'{target:g}' for target in targets)}")
        return targets


class CompareConfig(Config):
    """A comparison: what is trained on which data, and how it is judged."""

    name: str = pydantic.Field(default="comparison", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Results are kept below compare/NAME of the root."""
    base: str
    """A pipeline configuration, relative to this file. Its sections from `trajectory_gen` to `neighbour_gen` make the data, its
    `trainer` section is what grids begin from, and its `evaluator` section says what is ranked: the last of `splits` under the
    first of `protocols`."""
    changes: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Values that differ from the base's, by the base's keys, such as {trainer: {max_epochs: 5}}."""
    grids: tuple[GridConfig, ...]
    """What is trained."""
    metric: str = "ndcg@10"
    """Metric by which the leaderboard is sorted."""
    reference: str | None = None
    """Row that all others are compared with, on the same backbone where it is there; null takes `bc`, or the first row."""
    baselines: tuple[str, ...] = tuple(BASELINES)
    """Recommenders without training that are measured, too."""
    simulate: SimulateConfig | None = None
    """True long-term return; only where the data set is session_shop, and there it is on unless this is null."""

    @pydantic.field_validator("baselines")
    @classmethod
    def _baselines_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BASELINES:
                raise ValueError(f"unknown baseline {name!r}{suggestion(name, BASELINES)}; known: {', '.join(sorted(BASELINES))}")
        if len(set(names)) < len(names):
            raise ValueError(f"baselines must differ from each other, found {', '.join(names)}")
        return names

    @pydantic.field_validator("metric")
    @classmethod
    def _metric_exists(cls, name: str) -> str:
        known = list(metric_names())
        if name not in known:
            raise ValueError(f"unknown metric{suggestion(name, known)}; known: {', '.join(known)}")
        return name


@dataclass(frozen=True)
class Model:
    """One row of the comparison before its heads are told apart: a configuration to train from some seeds.

    Attributes:
        label: Name of the row.
        trainer: Its configuration; the seed in it does not count.
        seeds: What it is trained from.
        family: What it and all that differ in the varied settings alone are called.
        settings: Varied key -> value.
        relabeller: How the returns that it is trained on are raised, if they are.
        online_tuner: How it goes on online, if it does; the seed in it does not count.
        reward_trainer: The reward model that it learns from, if it does.
        user_model_trainer: The user model that it learns from, if it does.
    """

    label: str
    trainer: TrainerConfig
    seeds: tuple[int, ...]
    family: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    relabeller: RelabellerConfig = field(default_factory=RelabellerConfig)
    online_tuner: OnlineTunerConfig = field(default_factory=OnlineTunerConfig)
    reward_trainer: RewardTrainerConfig = field(default_factory=RewardTrainerConfig)
    user_model_trainer: UserModelTrainerConfig = field(default_factory=UserModelTrainerConfig)

    def preparations(self) -> dict[str, Config]:
        """Steps that make what it is trained on or learns from beside the logs, with their configurations."""
        found: dict[str, Config] = {}
        if self.trainer.reward.source == "pretrained":
            found["reward_trainer"] = self.reward_trainer
        if self.trainer.imagination is not None:
            found["user_model_trainer"] = self.user_model_trainer
        if self.relabeller.enabled:
            found["relabeller"] = self.relabeller
        return found

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return _tag(self.trainer.algorithm)

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return _tag(self.trainer.network.backbone)

    def trainer_of(self, seed: int) -> TrainerConfig:
        """The configuration of one training."""
        return self.trainer.model_copy(update={"seed": seed})

    def tuner_of(self, seed: int) -> OnlineTunerConfig:
        """The configuration of the tuning after one training."""
        return self.online_tuner.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class Comparison:
    """A comparison, ready to run.

    Attributes:
        config: As it was written, with names spelled out.
        pipeline: The base with the changes; it makes the data.
        models: What is trained, in the order of the grids.
    """

    config: CompareConfig
    pipeline: PipelineConfig
    models: tuple[Model, ...]

    @property
    def reference(self) -> str:
        """Label of the rows, or name of the baseline, that all others are compared with."""
        labels = [model.label for model in self.models]
        return self.config.reference or (DEFAULT_REFERENCE if DEFAULT_REFERENCE in labels else labels[0])

    @property
    def num_runs(self) -> int:
        """Trainings in all."""
        return sum(len(model.seeds) for model in self.models)


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Reads the configuration of a comparison and that of its base.

    Args:
        path: YAML or JSON file.
        overrides: KEY=VALUE, as in `schemas.config.load_plain`.

    Raises:
        ConfigError: Something is unknown or does not fit, in one of the files or between them.
    """
    source, data = str(path), load_plain(path, overrides)
    base_path, base = _base(Path(path), data)
    pipeline = decode(PipelineConfig, base, base_path) if base_path else None
    grids = data.get("grids")
    if isinstance(grids, list):
        data["grids"] = [_spelled_out(grid, base) if isinstance(grid, dict) else grid for grid in grids]
    if _is_simulated(base) and "simulate" not in data:
        data["simulate"] = {}
    config = decode(CompareConfig, data, source)
    assert pipeline is not None  # `base` is required
    # Results of another pipeline on the same data must not be taken for earlier ones of this comparison, nor the other way round.
    pipeline = pipeline.model_copy(update={"name": config.name})
    _check_fits(config, pipeline, source)
    models = tuple(_models(config, base, source))
    _check_names(config, models, source)
    for model in models:
        if preparations := model.preparations():
            row = pipeline.model_copy(update={"trainer": model.trainer, **preparations})
            decode(PipelineConfig, row.model_dump(mode="json"), f"{source}: row {model.label!r}")
    return Comparison(config, pipeline, models)


def _base(path: Path, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where the base is, and its plain data with the changes made; nothing where the configuration says neither as it must."""
    found, changes = data.get("base"), data.get("changes", {})
    if not isinstance(found, str) or not isinstance(changes, dict):
        return "", {}
    place = path.parent / found
    if not place.is_file():
        raise ConfigError(f"{path}: base: no such file: {place}; it is looked for relative to {path.parent}")
    return f"{place} with the changes of {path}" if changes else str(place), merged(load_plain(place), changes)


def _is_simulated(base: Mapping[str, Any]) -> bool:
    return _at(base, "trajectory_gen", "dataset", "name") == SIMULATED


def _at(data: Any, *keys: str) -> Any:
    """What stands at a path of plain data, or None."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with some values replaced, key by key; a mapping with another `name` is another thing and replaces the whole."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        is_same_kind = isinstance(value, dict) and isinstance(before, dict) and value.get("name", before.get("name")) == before.get("name")
        result[key] = merged(before, value) if is_same_kind else value  # type: ignore[arg-type]
    return result


def _spelled_out(grid: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A grid with names as mappings, and with the base's algorithm and backbone where it has none."""
    defaults = TrainerConfig()
    sections: dict[str, tuple[Any, Iterable[str]]] = {
        "algorithms": (_at(base, "trainer", "algorithm") or {"name": _tag(defaults.algorithm)}, ALGORITHMS),
        "backbones": (_at(base, "trainer", "network", "backbone") or {"name": _tag(defaults.network.backbone)}, BACKBONES),
    }
    result = dict(grid)
    for key, (own, registry) in sections.items():
        entries = list(registry) if grid.get(key) == "all" else grid.get(key, [own])
        if isinstance(entries, list):
            by_name = {_at(own, "name"): own}
            result[key] = [by_name.get(entry, {"name": entry}) if isinstance(entry, str) else entry for entry in entries]
    return result


def _models(config: CompareConfig, base: Mapping[str, Any], source: str) -> Iterator[Model]:
    """The rows of all grids.

    Raises:
        ConfigError: Two rows have one name, or overrides do not fit the trainer.
    """
    places: dict[tuple[str, str], int] = {}
    for number, grid in enumerate(config.grids):
        if not grid.algorithms or not grid.backbones:
            raise ConfigError(f"{source}: grids.{number}: expected at least one algorithm and one backbone")
        where = f"{source}: grids.{number}"
        for algorithm, settings, backbone in product(grid.algorithms, _combinations(grid.vary), grid.backbones):
            family = _label(grid, _tag(algorithm))
            label = ", ".join([family, *(_named(key, value, grid.vary) for key, value in settings.items())])
            row = (label, _tag(backbone))
            if row in places:
                raise ConfigError(
                    f"{where}: there is a row {label!r} on {_tag(backbone)} already, from grids.{places[row]}; what has other settings "
                    "goes into a grid of its own with a `label`"
                )
            places[row] = number
            yield _varied(Model(label, TrainerConfig(), grid.seeds, family, settings), grid, base, algorithm, backbone, where)


def _combinations(vary: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every choice of a value for each key, the last key changing fastest; one empty choice where nothing varies."""
    return [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]


def _named(key: str, value: Any, keys: Iterable[str]) -> str:
    """A setting in the name of a row: the last part of its key, or the whole of it where another one ends alike."""
    section, _, last = key.rpartition(".")
    if last == "enabled" and isinstance(value, bool):
        return f"{section} {'on' if value else 'off'}"
    short = last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
    return f"{short} {as_text(value)}"


def as_text(value: Any) -> str:
    """A value as it is written in a configuration."""
    return value if isinstance(value, str) else json.dumps(value)


_PARTS = ("algorithm", "network.backbone")
"""Keys of the trainer section that grids have lists of."""
_SECTIONS: dict[str, type[Config]] = {
    "relabeller": RelabellerConfig,
    "online_tuner": OnlineTunerConfig,
    "reward_trainer": RewardTrainerConfig,
    "user_model_trainer": UserModelTrainerConfig,
}
"""Sections beside the trainer's that grids have values of."""


def _varied(model: Model, grid: GridConfig, base: Mapping[str, Any], algorithm: AnyAlgorithm, backbone: AnyBackbone, where: str) -> Model:
    """One row with its configurations."""
    own: dict[str, dict[str, Any]] = {part: {} for part in ("", *_PARTS, *_SECTIONS)}
    for key, value in model.settings.items():
        part = next((part for part in (*_PARTS, *_SECTIONS) if key.startswith(f"{part}.")), "")
        own[part] = merged(own[part], _nested(key.removeprefix(f"{part}."), value))
    settings = ", ".join(f"{key}={as_text(value)}" for key, value in model.settings.items())
    source = f"{where}.trainer" + (f" with {settings}" if settings else "")
    plain = _trainer(base, merged(grid.trainer, own[""]), source)
    changed = [
        decode(type(config), merged(config.model_dump(mode="json", exclude_unset=True), own[part]), f"{source}: {part}")
        if own[part]
        else config
        for part, config in zip(_PARTS, (algorithm, backbone), strict=True)
    ]
    network = plain.network.model_copy(update={"backbone": changed[1]})
    sections: dict[str, Any] = {
        name: decode(kind, merged(merged(base.get(name, {}), getattr(grid, name)), own[name]), f"{where}.{name}")
        for name, kind in _SECTIONS.items()
    }
    return replace(model, trainer=plain.model_copy(update={"algorithm": changed[0], "network": network, "seed": 0}), **sections)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """A dotted key and its value as mappings in each other."""
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _trainer(base: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> TrainerConfig:
    """The trainer section of a grid, with any algorithm and backbone: the grid has its own."""
    section = merged(base.get("trainer", {}), changes)
    section.pop("algorithm", None)
    if isinstance(section.get("network"), dict):
        section["network"] = {key: value for key, value in section["network"].items() if key != "backbone"}
    return decode(TrainerConfig, section, source)


def _label(grid: GridConfig, algorithm: str) -> str:
    if grid.label is None:
        return algorithm
    return grid.label if len(grid.algorithms) == 1 else f"{algorithm}, {grid.label}"


def _check_fits(config: CompareConfig, pipeline: PipelineConfig, source: str) -> None:
    if not config.grids:
        raise ConfigError(f"{source}: grids: expected at least one")
    if pipeline.trainer.warm_start_from is not None:
        raise ConfigError(
            f"{source}: trainer.warm_start_from of the base is {pipeline.trainer.warm_start_from!r}, but a comparison begins with fresh "
            "weights; set it to null in `changes`"
        )
    dataset = _tag(pipeline.trajectory_gen.dataset)
    if config.simulate is not None and dataset != SIMULATED:
        raise ConfigError(f"{source}: simulate: the true return is known where the data set is {SIMULATED}; found {dataset}")


def _check_names(config: CompareConfig, models: Sequence[Model], source: str) -> None:
    labels = list(dict.fromkeys(model.label for model in models))
    for name in labels:
        if name in BASELINES:
            raise ConfigError(f"{source}: a row cannot have the name of a baseline, {name!r}; give it another `label`")
    known = [*labels, *config.baselines]
    if config.reference is not None and config.reference not in known:
        raise ConfigError(
            f"{source}: reference: no row {config.reference!r}{suggestion(config.reference, known)}; known: {', '.join(known)}"
        )


def _tag(config: Config) -> str:
    """The `name` that tells configurations of one kind apart."""
    return str(getattr(config, "name"))  # noqa: B009  (every algorithm, backbone and dataset has one)
