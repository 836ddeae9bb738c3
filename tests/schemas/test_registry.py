"""The read-only table of names."""

import pytest

from schemas.registry import Registry, UnknownNameError, suggestion


@pytest.fixture
def colours() -> Registry[int]:
    return Registry("colour", {"red": 1, "green": 2})


def test_a_registry_reads_like_a_mapping_in_the_order_it_was_written(colours: Registry[int]) -> None:
    assert list(colours) == ["red", "green"]
    assert len(colours) == 2
    assert colours["green"] == 2
    assert "green" in colours
    assert "blue" not in colours
    assert colours.get("blue") is None


def test_a_miss_names_the_kind_a_near_name_and_what_is_known(colours: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        colours["gren"]
    assert str(caught.value) == "unknown colour 'gren' (did you mean 'green'?); known: green, red"
    assert isinstance(caught.value, KeyError)


def test_a_registry_does_not_follow_changes_of_the_dict_it_was_made_from() -> None:
    entries = {"red": 1}
    registry = Registry("colour", entries)
    entries["blue"] = 3
    assert list(registry) == ["red"]
    with pytest.raises(TypeError):
        registry["blue"] = 3  # type: ignore[index]


def test_a_far_name_gets_no_suggestion() -> None:
    assert suggestion("zzz", ["red", "green"]) == ""
    assert suggestion("gren", ["red", "green"]) == " (did you mean 'green'?)"
