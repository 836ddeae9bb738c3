"""What every known dataset keeps, whichever it is; a new one is tested without an edit here."""

import json
import types
import typing
from typing import Any

import numpy as np
import pydantic
import pytest

from components.datasets.base import DatasetConfig
from components.datasets.registry import DATASETS, AnyDataset
from components.datasets.session_shop import SessionShopDatasetConfig
from components.trajectory_gen.config import TrajectoryGenConfig
from models.simulators.noise import Thinning
from schemas.config import Config, ConfigError, canonical_json, decode

Kind = type[DatasetConfig]


def example_of(annotation: Any) -> Any:
    """Some plain value that a field of this type takes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return example_of(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin is dict:
        return {"name": example_of(arguments[1])}
    if origin is tuple:
        return [example_of(arguments[0])]
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return required_of(annotation)
    return {str: "some/text.csv", int: 1, float: 0.5, bool: True}[annotation]


def required_of(kind: type[Config]) -> dict[str, Any]:
    return {name: example_of(field.annotation) for name, field in kind.model_fields.items() if field.is_required()}


@pytest.fixture(params=list(DATASETS.items()), ids=list(DATASETS))
def entry(request: pytest.FixtureRequest) -> tuple[str, Kind]:
    return request.param  # type: ignore[no-any-return]


def decoded(name: str, kind: Kind, **changes: Any) -> Any:
    return decode(TrajectoryGenConfig, {"dataset": {"name": name, **required_of(kind), **changes}}, "test").dataset


def test_the_name_in_a_configuration_finds_the_entry(entry: tuple[str, Kind]) -> None:
    name, kind = entry
    assert type(decoded(name, kind)) is kind
    assert decoded(name, kind).name == name


def test_a_configuration_survives_its_own_json(entry: tuple[str, Kind]) -> None:
    name, kind = entry
    config = decoded(name, kind)
    again = pydantic.TypeAdapter(AnyDataset).validate_json(canonical_json(config))
    assert again == config
    assert type(again) is kind


def test_a_misspelt_key_is_an_error_with_the_users_path(entry: tuple[str, Kind]) -> None:
    name, kind = entry
    with pytest.raises(ConfigError, match=r"dataset\.nonsense: unknown key(;| \(did you mean '\w+'\?\);) known: "):
        decoded(name, kind, nonsense=1)


def test_a_dataset_describes_itself_for_the_list_of_datasets(entry: tuple[str, Kind]) -> None:
    _, kind = entry
    assert len(kind.description) > 10
    assert (kind.__doc__ or "").strip()


def test_files_that_do_not_exist_are_a_configuration_error(entry: tuple[str, Kind]) -> None:
    name, kind = entry
    config = decoded(name, kind)
    if not kind.model_fields.keys() & {"path", "clicks"}:
        pytest.skip("reads no files")
    with pytest.raises(ConfigError, match=r"trajectory_gen\.dataset\.(path|clicks): no such file or directory: 'some/text\.csv'"):
        config.sources()
    with pytest.raises(ConfigError):
        config.external_state()


def test_the_error_about_a_missing_file_names_a_key_that_the_dataset_has() -> None:
    config = decoded("yoochoose", DATASETS["yoochoose"])
    with pytest.raises(ConfigError, match=r"trajectory_gen\.dataset\.clicks"):
        config.sources()


def test_the_json_schema_of_the_configuration_lists_every_dataset() -> None:
    text = json.dumps(TrajectoryGenConfig.model_json_schema())
    for name in DATASETS:
        assert f'"{name}"' in text


def test_the_simulated_shop_is_a_log_without_files(read: Any) -> None:
    config = SessionShopDatasetConfig(num_events=500, seed=3)
    assert config.external_state() == {}
    outcome = read(config)
    assert 500 <= outcome.rows_read < 600
    assert outcome.bad == []
    assert {row[4:6] for row in outcome.rows} == {(0, 0.2), (1, 1.0)}
    assert all(0 < row[6] <= 1 for row in outcome.rows)
    assert read(config).rows == outcome.rows
    assert read(SessionShopDatasetConfig(num_events=500, seed=4)).rows != outcome.rows


def test_noise_changes_rewards_of_the_simulated_shop_and_nothing_else(read: Any) -> None:
    plain = read(SessionShopDatasetConfig(num_events=4000, seed=3)).rows
    noisy = read(SessionShopDatasetConfig(num_events=4000, seed=3, noise=Thinning(kept=0.25))).rows
    assert [row[:5] + row[6:] for row in noisy] == [row[:5] + row[6:] for row in plain]
    rewards = np.array([[row[5], other[5]] for row, other in zip(plain, noisy, strict=True)])
    paid = rewards[:, 1] > 0
    assert rewards[paid, 1] == pytest.approx(4.0 * rewards[paid, 0])
    # A share of .25 of some 4,000 events has a deviation of .007.
    assert paid.mean() == pytest.approx(0.25, abs=0.03)
    assert read(SessionShopDatasetConfig(num_events=4000, seed=3, noise=Thinning(kept=0.25))).rows == noisy
