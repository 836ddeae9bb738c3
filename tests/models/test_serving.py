"""The served function on histories of every kind."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.frameworks import tf
from models.serving import ServedPolicy

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

K = 6
NAMES = toy.item_names()
NOTHING = -1e29
"""Scores below stand for no item."""

names = st.sampled_from([*NAMES, "", "never seen", "also never seen"])
histories = st.lists(names, max_size=13)
excludes = st.lists(names, max_size=25)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@pytest.fixture(scope="module")
def algorithm():
    return toy.shake(toy.build("bc"))


@pytest.fixture(scope="module")
def policy(algorithm, tmp_path_factory: pytest.TempPathFactory) -> ServedPolicy:
    return _served(algorithm, tmp_path_factory.mktemp("served"), K)


def _served(algorithm, folder: Path, k: int) -> ServedPolicy:
    items = folder / "items.txt"
    items.write_text("".join(f"{name}\n" for name in toy.item_names(algorithm.catalogue.num_items)), encoding="utf-8")
    return ServedPolicy(algorithm, str(items), k)


def _strings(rows: list[list[str]]) -> tf.Tensor:
    width = max((len(row) for row in rows), default=0)
    return tf.reshape(tf.constant([name for row in rows for name in [*row, *[""] * (width - len(row))]], tf.string), [len(rows), width])


def _answer(policy: ServedPolicy, history: list[list[str]], exclude: list[list[str]] | None = None) -> list[list[tuple[str, float]]]:
    given = () if exclude is None else (_strings(exclude),)
    answer = policy.serve(_strings(history), *given)
    items = [[item.decode() for item in row] for row in answer["item_id"].numpy()]
    return [list(zip(row, scores, strict=True)) for row, scores in zip(items, answer["score"].numpy().tolist(), strict=True)]


def _items(policy: ServedPolicy, history: list[str], exclude: list[str] | None = None) -> list[str]:
    return [item for item, _ in _answer(policy, [history], None if exclude is None else [exclude])[0]]


# === Properties of every answer ===


@quick
@given(history=histories, exclude=excludes)
def test_an_answer_is_k_different_items_none_excluded_by_falling_score(policy: ServedPolicy, history: list[str], exclude: list[str]):
    answer = _answer(policy, [history], [exclude])[0]
    items, scores = [item for item, _ in answer], [score for _, score in answer]
    left = set(NAMES) - set(exclude)
    count = min(K, len(left))
    assert len(answer) == K
    assert set(items[:count]) <= left
    assert len(set(items[:count])) == count
    assert all(np.isfinite(scores))
    assert scores == sorted(scores, reverse=True)
    assert all(score > NOTHING for score in scores[:count])
    # Fewer than K left: empty places at the end.
    assert items[count:] == [""] * (K - count)
    assert all(score == pytest.approx(-1e30) for score in scores[count:])


@quick
@given(history=histories, exclude=excludes)
def test_an_answer_is_the_ranking_of_the_last_items(policy: ServedPolicy, algorithm, history: list[str], exclude: list[str]):
    ids = {name: number for number, name in enumerate(["", *NAMES])}
    last = [ids.get(name, toy.UNKNOWN) for name in history if name][-toy.MAX_STEPS :]
    padded = tf.constant([last + [0] * (toy.MAX_STEPS - len(last))], tf.int32)
    banned = tf.constant([[ids.get(name, 0) for name in exclude] or [0]], tf.int32)
    expected = algorithm.rank(algorithm.final_states(padded, tf.constant([len(last)])), padded, K, banned)
    answer = _answer(policy, [history], [exclude])[0]
    assert [item for item, _ in answer] == [["", *NAMES][item] for item in expected.item_id.numpy()[0]]
    assert [score for _, score in answer] == pytest.approx(expected.score.numpy()[0].tolist(), abs=1e-4)


@quick
@given(rows=st.lists(st.tuples(histories, excludes), min_size=2, max_size=4))
def test_rows_are_answered_on_their_own(policy: ServedPolicy, rows: list[tuple[list[str], list[str]]]):
    together = _answer(policy, [history for history, _ in rows], [exclude for _, exclude in rows])
    for (history, exclude), answer in zip(rows, together, strict=True):
        alone = _answer(policy, [history], [exclude])[0]
        assert [item for item, _ in alone] == [item for item, _ in answer]
        assert [score for _, score in alone] == pytest.approx([score for _, score in answer], abs=1e-4)


# === What comes in is put right ===


@pytest.mark.parametrize(
    "history",
    [["", "item-3", "item-5"], ["item-3", "", "item-5"], ["item-3", "item-5", "", "", ""], ["", "", "item-3", *[""] * 20, "item-5", ""]],
)
def test_padding_counts_for_nothing_wherever_it_stands(policy: ServedPolicy, history: list[str]):
    expected = _answer(policy, [["item-3", "item-5"]])[0]
    answer = _answer(policy, [history])[0]
    assert [item for item, _ in answer] == [item for item, _ in expected]
    assert [score for _, score in answer] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_only_the_last_items_of_a_long_history_count(policy: ServedPolicy):
    last = NAMES[4 : 4 + toy.MAX_STEPS]
    assert _answer(policy, [[*NAMES[15:20], *last]]) == _answer(policy, [last])
    assert _answer(policy, [["item-1", *last[1:]]]) != _answer(policy, [last])


def test_padding_does_not_push_items_out_of_a_long_history(policy: ServedPolicy):
    last = NAMES[4 : 4 + toy.MAX_STEPS]
    assert _answer(policy, [[*last, *[""] * 10]]) == _answer(policy, [last])


def test_all_unknown_items_are_the_same_item_and_not_nothing(policy: ServedPolicy):
    assert _answer(policy, [["item-3", "never seen"]]) == _answer(policy, [["item-3", "also never seen"]])
    assert _answer(policy, [["item-3", "never seen"]]) != _answer(policy, [["item-3"]])


@pytest.mark.parametrize("history", [[], [""], ["", "", ""], [""] * 30], ids=["no_width", "one", "three", "thirty"])
def test_an_empty_history_gets_what_newcomers_get(policy: ServedPolicy, algorithm, history: list[str]):
    nothing = tf.zeros([1, toy.MAX_STEPS], tf.int32)
    expected = algorithm.rank(algorithm.final_states(nothing, tf.constant([0])), nothing, K)
    assert _items(policy, history) == [["", *NAMES][item] for item in expected.item_id.numpy()[0]]


def test_no_rows_get_no_answers(policy: ServedPolicy):
    answer = policy.serve(tf.zeros([0, 3], tf.string), tf.zeros([0, 1], tf.string))
    assert answer["item_id"].shape == (0, K)
    assert answer["score"].shape == (0, K)


# === Exclusion ===


def test_exclusion_may_be_left_out(policy: ServedPolicy):
    assert _answer(policy, [["item-3"], ["item-4"]]) == _answer(policy, [["item-3"], ["item-4"]], [[""], [""]])


def test_one_row_of_exclusions_holds_for_all_rows(policy: ServedPolicy):
    histories = [["item-3"], ["item-4"], []]
    banned = ["item-3", "item-4", "item-5"]
    assert _answer(policy, histories, [banned]) == _answer(policy, histories, [banned] * 3)


def test_excluding_what_was_not_there_changes_nothing(policy: ServedPolicy):
    history = [["item-3", "item-4"]]
    worst = next(item for item in NAMES if item not in _items(policy, history[0]))
    assert _answer(policy, history, [[worst, "never seen", ""]]) == _answer(policy, history)


def test_an_excluded_item_leaves_its_place_to_the_next(policy: ServedPolicy):
    first, *others = _items(policy, ["item-3"])
    assert _items(policy, ["item-3"], [first])[: K - 1] == others


def test_everything_excluded_leaves_empty_places(policy: ServedPolicy):
    assert _answer(policy, [["item-3"]], [NAMES])[0] == [("", pytest.approx(-1e30))] * K


def test_a_catalogue_smaller_than_k_is_answered_whole(tmp_path: Path):
    small = _served(toy.shake(toy.build("bc", items=toy.catalogue(5))), tmp_path, K)
    items = _items(small, ["item-2", "item-2"])
    assert sorted(items[:4]) == ["item-1", "item-2", "item-3", "item-4"]
    assert items[4:] == ["", ""]


# === Names ===


def test_names_come_back_as_they_were_written(tmp_path: Path):
    # White space, quotes, what looks like a number and other alphabets are all just text.
    odd = ["007", "7", " 7", "7 ", "a,b", '"q"', "\ttab", "ñandú", "商品", "😀", "(unknown)", "null", "-1", "a\\nb", "#x"]
    algorithm = toy.shake(toy.build("bc", items=toy.catalogue(len(odd) + 1)))
    path = tmp_path / "items.txt"
    path.write_text("".join(f"{name}\n" for name in odd), encoding="utf-8")
    policy = ServedPolicy(algorithm, str(path), len(odd))
    answer = policy.serve(tf.constant([[name] for name in odd]), tf.constant([[""]]))
    found = [[item.decode() for item in row] for row in answer["item_id"].numpy()]
    assert all(sorted(row) == sorted(odd) for row in found)
    ids = tf.constant([[number] for number in range(1, len(odd) + 1)])
    expected = algorithm.rank(algorithm.final_states(ids, tf.ones([len(odd)], tf.int32)), ids, len(odd))
    assert found == [[odd[item - 1] for item in row] for row in expected.item_id.numpy()]
