"""Strict, frozen, decoded configurations, and what a user reads when one is wrong."""

import hashlib
import json
from typing import Annotated, Literal, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PipelineConfig
from schemas.config import Config, ConfigError, canonical_json, decode, digest


class Inner(Config):
    depth: int = pydantic.Field(default=1, ge=1)
    rate: float = 0.5


class Circle(Config):
    name: Literal["circle"] = "circle"
    radius: float


class Square(Config):
    name: Literal["square"] = "square"
    side: float = 1.0
    inner: Inner = Inner()


class Outer(Config):
    label: str = "x"
    count: int | None = None
    flag: bool = False
    inner: Inner = Inner()
    shape: Annotated[Circle | Square, pydantic.Field(discriminator="name")] = Square()
    # A union with a single member, as a registry with one entry makes it.
    only: Annotated[Union[(Circle,)], pydantic.Field(discriminator="name")] = Circle(radius=1.0)
    table: dict[str, Inner] = pydantic.Field(default_factory=dict)
    several: tuple[Inner, ...] = ()
    path: str | tuple[str, ...] = "logs"


def problems(data: object, kind: type[Config] = Outer) -> list[str]:
    """The lines of the error, without the one that counts them."""
    with pytest.raises(ConfigError) as caught:
        decode(kind, data, "run.yaml")  # type: ignore[arg-type]
    first, *lines = str(caught.value).splitlines()
    assert first == f"run.yaml: {len(lines)} problem(s)"
    return [line.removeprefix("  ") for line in lines]


def log(**changes: object) -> dict[str, object]:
    dataset = {
        "name": "delimited",
        "path": "events.csv",
        "columns": {"user": "u", "item": "i", "timestamp": "t"},
        "feedback": {"view": {"role": "click", "reward": 1.0}},
    }
    return {"trajectory_gen": {"dataset": {**dataset, **changes}}}


def test_an_unknown_key_is_named_with_a_suggestion_and_what_is_known() -> None:
    known = "known: count, flag, inner, label, only, path, several, shape, table"
    assert problems({"labell": "y"}) == [f"labell: unknown key (did you mean 'label'?); {known}"]
    assert problems({"zzz": 1}) == [f"zzz: unknown key; {known}"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"inner": {"dept": 3}}, "inner.dept: unknown key (did you mean 'depth'?); known: depth, rate"),
        (
            {"shape": {"name": "circle", "radius": 1, "radios": 2}},
            "shape.radios: unknown key (did you mean 'radius'?); known: name, radius",
        ),
        (
            {"shape": {"name": "square", "inner": {"dept": 3}}},
            "shape.inner.dept: unknown key (did you mean 'depth'?); known: depth, rate",
        ),
        ({"table": {"a": {}, "b": {"dept": 2}}}, "table.b.dept: unknown key (did you mean 'depth'?); known: depth, rate"),
        ({"several": [{}, {"dept": 2}]}, "several.1.dept: unknown key (did you mean 'depth'?); known: depth, rate"),
        ({"only": {"name": "circle", "radius": 1, "radios": 2}}, "only.radios: unknown key (did you mean 'radius'?); known: name, radius"),
    ],
)
def test_an_unknown_key_is_found_at_any_depth(data: dict[str, object], line: str) -> None:
    assert problems(data) == [line]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"count": "4"}, "count: input should be a valid integer; found '4'"),
        ({"count": 4.5}, "count: input should be a valid integer"),
        ({"count": True}, "count: input should be a valid integer; found True"),
        ({"flag": 1}, "flag: input should be a valid boolean; found 1"),
        ({"flag": "true"}, "flag: input should be a valid boolean; found 'true'"),
        ({"label": 5}, "label: input should be a valid string; found 5"),
        ({"inner": None}, "inner: input should be an object; found None"),
        ({"inner": {"rate": "fast"}}, "inner.rate: input should be a valid number; found 'fast'"),
        ({"inner": {"rate": float("nan")}}, "inner.rate: input should be a finite number; found nan"),
        ({"inner": {"depth": 0}}, "inner.depth: input should be greater than or equal to 1; found 0"),
        ({"shape": {"name": "circle", "radius": "big"}}, "shape.radius: input should be a valid number; found 'big'"),
        ({"shape": {"name": "circle"}}, "shape.radius: required, but not given"),
        ({"shape": "circle"}, "shape: input should be an object; found 'circle'"),
        ({"several": [{}, {"depth": "2"}]}, "several.1.depth: input should be a valid integer; found '2'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(data: dict[str, object], line: str) -> None:
    (found,) = problems(data)
    assert found.startswith(line)


def test_every_problem_gets_its_line() -> None:
    assert problems({"labell": "y", "count": "4", "inner": {"depth": 0}}) == [
        "count: input should be a valid integer; found '4'",
        "inner.depth: input should be greater than or equal to 1; found 0",
        "labell: unknown key (did you mean 'label'?); known: count, flag, inner, label, only, path, several, shape, table",
    ]


@pytest.mark.parametrize("key", ["shape", "only"])
def test_an_unknown_name_in_a_union_of_any_size_lists_the_known_ones(key: str) -> None:
    known = {"shape": "circle, square", "only": "circle"}[key]
    assert problems({key: {"name": "circel", "radius": 1}}) == [
        f"{key}.name: unknown name 'circel' (did you mean 'circle'?); known: {known}"
    ]
    assert problems({key: {"radius": 1}}) == [f"{key}.name: required, but not given"]
    assert problems({key: {"name": 5}}) == [f"{key}.name: unknown name '5'; known: {known}"]


def test_problems_of_the_real_configuration_are_named_as_the_user_wrote_them() -> None:
    assert problems(log(pathh="x"), PipelineConfig) == [
        "trajectory_gen.dataset.pathh: unknown key (did you mean 'path'?); "
        "known: columns, feedback, ignored_feedback, name, path, text, timestamp_unit"
    ]
    assert problems(log(feedback={"view": {"role": "clik", "reward": 1}}), PipelineConfig) == [
        "trajectory_gen.dataset.feedback.view.role: input should be 'click' or 'purchase'; found 'clik'"
    ]
    assert problems(log(name="delimitted"), PipelineConfig)[0].startswith(
        "trajectory_gen.dataset.name: unknown name 'delimitted' (did you mean 'delimited'?); known: delimited, jsonl, parquet"
    )
    assert problems({**log(), "trainer": {"algorithm": {"name": "sqnn"}}}, PipelineConfig)[0].startswith(
        "trainer.algorithm.name: unknown name 'sqnn' (did you mean 'sqn'?); known: "
    )
    assert problems({**log(), "trainer": {"network": {"backbone": {"name": "sasrecc"}}}}, PipelineConfig)[0].startswith(
        "trainer.network.backbone.name: unknown name 'sasrecc' (did you mean 'sasrec'?); known: "
    )
    assert problems({"trajectory_gen": {"dataset": {"name": "retailrocket"}}}, PipelineConfig) == [
        "trajectory_gen.dataset.path: required, but not given"
    ]
    assert problems({}, PipelineConfig) == ["trajectory_gen: required, but not given"]


def test_a_rule_between_fields_is_reported_at_the_group_it_is_about() -> None:
    assert problems(log(text={"header": False}), PipelineConfig) == [
        "trajectory_gen.dataset.text: without a header, column_names must name every column in order"
    ]
    split = {"trajectory_gen": {**log()["trajectory_gen"], "split": {"train_fraction": 0.95}}}  # type: ignore[dict-item]
    assert problems(split, PipelineConfig) == [
        "trajectory_gen.split: train_fraction 0.95 and eval_fraction 0.1 must leave something for the test split"
    ]


def test_a_wrong_value_of_a_plain_union_is_one_line_with_the_users_path() -> None:
    (line,) = problems({"path": 5})
    assert line.startswith("path: ")


def test_data_that_json_does_not_know_is_an_error_with_the_source() -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: .*bytes.*use plain text, numbers"):
        decode(Outer, {"label": b"x"}, "run.yaml")


@pytest.mark.parametrize("value", [{}, {"several": [{"depth": 3}]}, {"shape": {"name": "circle", "radius": 2}, "path": ["a", "b"]}])
def test_canonical_json_decodes_to_the_same_configuration(value: dict[str, object]) -> None:
    config = decode(Outer, value, "test")
    text = canonical_json(config)
    again = decode(Outer, json.loads(text), "test")
    assert again == config
    assert canonical_json(again) == text


def test_canonical_json_is_every_field_with_sorted_keys_and_no_spaces() -> None:
    assert canonical_json(Square(side=2.0)) == '{"inner":{"depth":1,"rate":0.5},"name":"square","side":2.0}'


def test_a_default_written_out_and_a_default_left_out_have_one_digest() -> None:
    written = decode(Square, {"side": 1, "inner": {"rate": 0.5}}, "test")
    assert digest(written) == digest(Square())
    assert digest(Square(side=1.5)) != digest(Square())
    spelling = '{"inner":{"depth":1,"rate":0.5},"name":"square","side":1.0}'
    assert digest(Square()) == hashlib.sha256(spelling.encode()).hexdigest()


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0.0, 1e6)), st.permutations(["count", "flag", "label"]))
def test_the_order_of_keys_does_not_change_the_canonical_json(table: dict[str, float], order: list[str]) -> None:
    values = {"count": 3, "flag": True, "label": "é"}
    forward = {**{key: values[key] for key in order}, "table": {name: {"rate": rate} for name, rate in table.items()}}
    backward = {"table": {name: {"rate": rate} for name, rate in reversed(table.items())}, **values}
    assert canonical_json(decode(Outer, forward, "test")) == canonical_json(decode(Outer, backward, "test"))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Inner().depth = 5  # type: ignore[misc]


def test_defaults_are_validated_too() -> None:
    class Wrong(Config):
        depth: int = pydantic.Field(default=0, ge=1)

    assert problems({}, Wrong) == ["depth: input should be greater than or equal to 1; found 0"]
