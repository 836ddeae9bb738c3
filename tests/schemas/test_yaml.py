"""Reading YAML and JSON files: scalars, repeated keys, overrides and variables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.config import Config, ConfigError, from_overrides, load, load_plain

Plain = Callable[..., dict[str, Any]]


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    def read(text: str, *overrides: str) -> dict[str, Any]:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_plain(path, overrides)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("false", False),
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-1e-3", -0.001),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("0.25", 0.25),
        ("1", 1),
        ("-7", -7),
        ("0x1F", 31),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'5'", "5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(plain: Plain, text: str, value: object) -> None:
    found = plain(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.1 alone reads these as a date, base 60, grouped digits and octal.
        ("2025-01-01", "2025-01-01"),
        ("12:30", "12:30"),
        ("2024_01", "2024_01"),
        ("010", 10),
    ],
)
def test_dates_times_and_digits_with_underscores_are_text(plain: Plain, text: str, value: object) -> None:
    found = plain(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, b: 2}", "a: [{b: 1, b: 2}]", '{"a": 1, "a": 1}'])
def test_a_repeated_key_is_an_error_that_names_it_and_its_line(plain: Plain, text: str) -> None:
    key = "b" if "b" in text else "a"
    with pytest.raises(ConfigError, match=rf"key '{key}' is given twice\n.*line \d"):
        plain(text)


@pytest.mark.parametrize("text", ["1: a", "true: a", "? [a]\n: 1"])
def test_a_key_that_is_no_text_is_an_error(plain: Plain, text: str) -> None:
    with pytest.raises(ConfigError, match="expected text as a key"):
        plain(text)


def test_a_word_that_older_yaml_takes_for_a_boolean_can_be_a_key(plain: Plain) -> None:
    assert plain("on: 1\nno: 2") == {"on": 1, "no": 2}


@pytest.mark.parametrize("text", ["a: b: c", "a: [1", "a: @x", "a: !!python/object:os.system x", "a: 1\n---\nb: 2", "a: &x\n  b: *x"])
def test_what_is_no_plain_yaml_is_an_error_with_the_file(plain: Plain, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: not valid YAML"):
        plain(text)


def test_an_empty_file_is_an_empty_mapping_and_a_list_is_an_error(plain: Plain) -> None:
    assert plain("") == {}
    assert plain("# nothing\n") == {}
    with pytest.raises(ConfigError, match="expected a mapping of keys to values, found list"):
        plain("- a")


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the configuration: No such file"):
        load_plain(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_plain(tmp_path)


def test_a_file_that_is_not_utf_8_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        load_plain(tmp_path / "latin.yaml")


def test_json_is_read_too(plain: Plain) -> None:
    assert plain('{"a": {"b": [1, 2.5, "x", null, true]}, "c": "\\u00e9"}') == {"a": {"b": [1, 2.5, "x", None, True]}, "c": "é"}


def test_json_may_be_indented_with_tabs(plain: Plain) -> None:
    assert plain('{\n\t"a": 1\n}') == {"a": 1}


# === Overrides ===


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=3", {"a": {"b": 3}, "l": [1]}),
        ("a.c=1e-3", {"a": {"b": 2, "c": 0.001}, "l": [1]}),
        ("x.y.z=on", {"a": {"b": 2}, "l": [1], "x": {"y": {"z": "on"}}}),
        ("a=true", {"a": True, "l": [1]}),
        ("l=[3, 4]", {"a": {"b": 2}, "l": [3, 4]}),
        ("a={c: 1}", {"a": {"c": 1}, "l": [1]}),
        ("a.b=", {"a": {"b": None}, "l": [1]}),
        ("a.b=null", {"a": {"b": None}, "l": [1]}),
        ("a.b='5'", {"a": {"b": "5"}, "l": [1]}),
        ("a.b=x=y", {"a": {"b": "x=y"}, "l": [1]}),
        ("a.b = 7", {"a": {"b": 7}, "l": [1]}),
        ("a.b=gs://bucket/x,y", {"a": {"b": "gs://bucket/x,y"}, "l": [1]}),
    ],
)
def test_an_override_sets_one_value_with_yamls_types(plain: Plain, override: str, expected: dict[str, Any]) -> None:
    assert plain("a: {b: 2}\nl: [1]", override) == expected


def test_the_last_override_of_a_key_counts(plain: Plain) -> None:
    assert plain("a: 1", "a=2", "a=3") == {"a": 3}


@pytest.mark.parametrize("override", ["a", "=1", ".a=1", "a.=1", "a..b=1", "", "  =1"])
def test_a_malformed_override_is_an_error_with_an_example(plain: Plain, override: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set {override}: expected KEY=VALUE with a dotted key, such as "):
        plain("a: {b: 2}", override)


def test_an_override_does_not_reach_through_a_value_or_a_list(plain: Plain) -> None:
    with pytest.raises(ConfigError, match=r"--set a\.b\.c=1: a\.b is 2, not a group of keys"):
        plain("a: {b: 2}", "a.b.c=1")
    with pytest.raises(ConfigError, match=r"--set l\.0=5: l is \[1\], not a group of keys"):
        plain("l: [1]", "l.0=5")


def test_an_override_whose_value_is_no_yaml_is_an_error_that_names_the_override(plain: Plain) -> None:
    with pytest.raises(ConfigError, match=r"--set a=\[1: not valid YAML"):
        plain("a: 1", "a=[1")


def test_an_override_changes_only_the_key_it_names(plain: Plain) -> None:
    assert plain("a: &shared {b: 1}\nc: *shared", "a.b=2") == {"a": {"b": 2}, "c": {"b": 1}}


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    class Small(Config):
        depth: int = 1

    path = tmp_path / "small.yaml"
    path.write_text("depth: 2\n")
    assert load(Small, path, ["depth=5"]).depth == 5
    with pytest.raises(ConfigError, match=r"depth: input should be a valid integer; found 'five'"):
        load(Small, path, ["depth=five"])
    with pytest.raises(ConfigError, match=r"deep: unknown key \(did you mean 'depth'\?\)"):
        load(Small, path, ["deep=5"])


# === Variables ===


def test_variables_are_replaced_inside_text_at_any_depth(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LP_HOST", "example")
    monkeypatch.delenv("LP_NONE", raising=False)
    assert plain('a: ${LP_HOST}\nb: {c: ["x-${LP_HOST}-${LP_NONE:-d}"]}\ne: ${LP_NONE:-}') == {
        "a": "example",
        "b": {"c": ["x-example-d"]},
        "e": "",
    }


def test_a_variable_in_an_override_is_replaced_too(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LP_HOST", "example")
    assert plain("a: 1", "a=${LP_HOST}") == {"a": "example"}


class _Named(Config):
    name: str


def test_a_variable_in_overrides_without_a_file_is_replaced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LP_HOST", "example")
    assert from_overrides(_Named, ["name=${LP_HOST}"]).name == "example"
    monkeypatch.delenv("LP_HOST")
    with pytest.raises(ConfigError, match=r"--set: '\$\{LP_HOST\}' needs the environment variable LP_HOST"):
        from_overrides(_Named, ["name=${LP_HOST}"])


def test_a_replaced_value_is_text_and_is_not_read_as_yaml_again(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LP_NUMBER", "5")
    monkeypatch.setenv("LP_NESTED", "${LP_NUMBER}")
    assert plain("a: ${LP_NUMBER}\nb: ${LP_NESTED}") == {"a": "5", "b": "${LP_NUMBER}"}


def test_an_unset_variable_without_a_default_is_an_error_that_names_it(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LP_NONE", raising=False)
    with pytest.raises(ConfigError, match=r"run\.yaml: 'x/\$\{LP_NONE\}' needs the environment variable LP_NONE, which is not set"):
        plain("a: x/${LP_NONE}")


def test_a_dollar_sign_that_is_no_variable_stays(plain: Plain) -> None:
    assert plain("a: cost $5 $HOME ${}")["a"] == "cost $5 $HOME ${}"
