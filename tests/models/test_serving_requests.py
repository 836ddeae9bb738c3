"""Signatures beside the default one: candidates, tags, numbers of items, scores, examples."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.frameworks import tf
from models.item_tags import item_tags
from models.ranking import is_among
from models.serving import ReturnServedPolicy, ServedPolicy

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

K = 6
NAMES = toy.item_names()
TAGS = {"even": list(range(2, 21, 2)), "last": [18, 19, 20], "one": [1]}
NOTHING = -1e30

names = st.sampled_from([*NAMES, "", "never seen"])
quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _served(folder: Path, algorithm: Any, kind: type[ServedPolicy] = ServedPolicy, with_tags: bool = True) -> ServedPolicy:
    items = folder / "items.txt"
    items.write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    return kind(algorithm, str(items), K, item_tags(TAGS, toy.NUM_ITEMS, folder / "tags.txt") if with_tags else None)


@pytest.fixture(scope="module", params=["bc", "dqn", "bcq"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServedPolicy:
    return _served(tmp_path_factory.mktemp("served"), toy.shake(toy.build(request.param)))


def _strings(rows: list[list[str]]) -> tf.Tensor:
    width = max((len(row) for row in rows), default=0)
    return tf.reshape(tf.constant([name for row in rows for name in [*row, *[""] * (width - len(row))]], tf.string), [len(rows), width])


def _ask(policy: ServedPolicy, history: list[list[str]], **wishes: Any) -> list[list[tuple[str, float]]]:
    """Items with scores of each row; checks what holds for every answer."""
    given = {name: _strings(value) if name != "k" else tf.constant(value, tf.int32) for name, value in wishes.items()}
    answer = policy.recommend(_strings(history), **given)
    rows = []
    for items, scores, count in zip(answer["item_id"].numpy(), answer["score"].numpy(), answer["num_valid"].numpy(), strict=True):
        assert len(items) == len(scores) == K
        assert len(set(items[:count])) == count
        assert all(items[:count] != b"")
        assert all(items[count:] == b"")
        assert np.isfinite(scores).all()
        assert all(scores[count:] == np.float32(NOTHING))
        assert all(np.diff(scores) <= 0)
        rows.append([(item.decode(), float(score)) for item, score in zip(items[:count], scores[:count], strict=True)])
    return rows


def _all_scores(policy: ServedPolicy, history: list[str]) -> dict[str, float]:
    answer = policy.score_candidates(_strings([history]), tf.constant([NAMES]))
    return dict(zip(NAMES, answer["score"].numpy()[0].tolist(), strict=True))


# === Every answer ===


@quick
@given(
    history=st.lists(names, max_size=12),
    exclude=st.lists(names, max_size=22),
    candidates=st.lists(names, max_size=10),
    tags=st.lists(st.sampled_from(["even", "last", "one", "", "no tag"]), max_size=3),
    k=st.integers(-2, K + 3),
)
def test_an_answer_is_the_best_of_what_is_left(
    policy: ServedPolicy, history: list[str], exclude: list[str], candidates: list[str], tags: list[str], k: int
):
    left = set(NAMES) - set(exclude)
    if any(candidates):
        left &= set(candidates)
    if any(tags):
        left &= {NAMES[item - 1] for tag in tags for item in TAGS.get(tag, [])}
    wishes = {"exclude": [exclude], "candidates": [candidates], "allow_tags": [tags], "k": [k]}
    (answer,) = _ask(policy, [history], **wishes)
    assert len(answer) == min(max(k, 0), K, len(left))
    scores = _all_scores(policy, history)
    expected = sorted((scores[item] for item in left), reverse=True)[: len(answer)]
    assert [score for _, score in answer] == pytest.approx(expected, abs=1e-4)
    for item, score in answer:
        assert item in left
        assert score == pytest.approx(scores[item], abs=1e-4)


def test_without_wishes_it_is_the_default_answer(policy: ServedPolicy):
    history = _strings([["item-3", "item-4"], [], ["never seen"] * 30])
    default, answer = policy.serve(history), policy.recommend(history)
    assert (default["item_id"].numpy() == answer["item_id"].numpy()).all()
    assert np.allclose(default["score"].numpy(), answer["score"].numpy())
    assert answer["num_valid"].numpy().tolist() == [K] * 3


def test_rows_have_wishes_of_their_own(policy: ServedPolicy):
    rows = [
        (["item-3"], ["item-7", "item-8", "item-7"], [], 1),
        (["item-4"], [], ["last"], 9),
        ([], [], [], 3),
        (["item-5"], ["never seen"], [], 5),
    ]
    histories, candidates, tags, counts = (list(column) for column in zip(*rows, strict=True))
    together = _ask(policy, histories, candidates=candidates, allow_tags=tags, k=counts)
    assert [len(row) for row in together] == [1, 3, 3, 0]
    for (history, chosen, allowed, k), answer in zip(rows, together, strict=True):
        (alone,) = _ask(policy, [history], candidates=[chosen], allow_tags=[allowed], k=[k])
        assert [item for item, _ in alone] == [item for item, _ in answer]
        assert [score for _, score in alone] == pytest.approx([score for _, score in answer], abs=1e-4)


def test_no_rows_get_no_answers(policy: ServedPolicy):
    assert _ask(policy, []) == []
    assert policy.score_candidates(tf.zeros([0, 2], tf.string), tf.zeros([0, 3], tf.string))["score"].shape == (0, 3)


def test_a_hundred_thousand_exclusions_are_searched(policy: ServedPolicy):
    # Compared in pairs they would take tens of gigabytes.
    many = ["item-5", *(f"other-{number}" for number in range(100_000))]
    assert _ask(policy, [["item-3"]], exclude=[many]) == _ask(policy, [["item-3"]], exclude=[["item-5"]])


@pytest.mark.parametrize("width", [1, 256, 257, 1000])
def test_members_are_found_by_comparing_and_by_searching(width: int):
    rng = np.random.default_rng(width)
    ids, others = rng.integers(0, 500, [3, 40]), rng.integers(0, 500, [3, width])
    expected = [np.isin(row, other).tolist() for row, other in zip(ids, others, strict=True)]
    assert is_among(tf.constant(ids, tf.int32), tf.constant(others, tf.int32)).numpy().tolist() == expected


def test_a_model_without_tags_has_nothing_for_those_who_ask_for_one(tmp_path: Path):
    policy = _served(tmp_path, toy.shake(toy.build("bc")), with_tags=False)
    assert [len(row) for row in _ask(policy, [["item-3"], ["item-3"]], allow_tags=[["even"], [""]])] == [0, K]


# === Too much ===


WITH_LISTS = {
    "exclude": ("serve", "recommend", "explore"),
    "candidates": ("recommend", "explore", "score_candidates"),
    "allow_tags": ("recommend", "explore"),
}


@pytest.mark.parametrize("name", WITH_LISTS)
def test_a_row_for_all_others_may_not_take_all_memory(policy: ServedPolicy, name: str):
    # 1,100 rows of 1,000 values; a request may have 1,048,576.
    history, one = tf.fill([1100, 1], "item-3"), tf.fill([1, 1000], "item-5")
    for signature in WITH_LISTS[name]:
        more = {"request_id": tf.fill([1100], "r")} if signature == "explore" else {}
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name}: at most 1,048,576 values over all rows, found.*1100000"):
            getattr(policy, signature)(item_history=history, **{name: one}, **more)


def test_a_long_example_may_not_widen_all_others_without_end(policy: ServedPolicy):
    for name in ("item_history", "exclude", "candidates", "allow_tags"):
        examples = tf.constant([_example(**{name: ["a"] * 1000}), *[b""] * 1099])
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name}: at most 1,048,576 values"):
            policy.serving_examples(examples)


# === Chance ===


def _explored(policy: ServedPolicy, history: list[list[str]], request_id: list[str], **wishes: Any) -> list[list[tuple[str, float, float]]]:
    """Items with scores and propensities of each row; checks what holds for every answer."""
    given = {name: _strings(value) if isinstance(value[0], list) else tf.constant(value) for name, value in wishes.items()}
    answer = {name: value.numpy() for name, value in policy.explore(_strings(history), tf.constant(request_id), **given).items()}
    rows = []
    for items, scores, propensities, count in zip(*(answer[n] for n in ("item_id", "score", "propensity", "num_valid")), strict=True):
        assert len(set(items[:count])) == count
        assert all(items[count:] == b"")
        assert np.isfinite(scores).all()
        assert all((propensities[:count] > 0) & (propensities[:count] <= 1))
        assert all(propensities[count:] == 0)
        rows.append([(i.decode(), float(s), float(p)) for i, s, p in zip(items[:count], scores[:count], propensities[:count], strict=True)])
    return rows


def test_the_order_is_drawn_from_the_best_by_the_request(policy: ServedPolicy):
    history = [["item-3", "item-4"]]
    (best,) = _ask(policy, history)
    (found,) = _explored(policy, history, ["a"])
    assert sorted(item for item, _, _ in found) == sorted(item for item, _ in best)
    for item, score, _ in found:
        assert score == pytest.approx(dict(best)[item], abs=1e-5)
    # The same request gets the same answer, whoever is asked for beside it.
    together = _explored(policy, [["item-9"], *history, *history], ["b", "a", "c"])
    assert [item for item, _, _ in together[1]] == [item for item, _, _ in found]
    orders = {tuple(item for item, _, _ in _explored(policy, history, [str(number)], temperature=[5.0])[0]) for number in range(20)}
    assert len(orders) > 5


def test_propensities_are_those_of_the_items_that_are_left(policy: ServedPolicy):
    history, temperature, epsilon = [["item-3", "item-4"]], 2.0, 0.3
    (found,) = _explored(policy, history, ["a"], temperature=[temperature], epsilon=[epsilon])
    scores = np.array([score for _, score, _ in found])
    share = np.exp((scores - scores.max()) / temperature)
    weight = (1 - epsilon) * share / share.sum() + epsilon / len(share)
    expected = [weight[place] / weight[place:].sum() for place in range(len(weight))]
    assert [propensity for _, _, propensity in found] == pytest.approx(expected, rel=1e-4)


def test_without_chance_it_is_the_ranking(policy: ServedPolicy):
    history = [["item-3", "item-4"], []]
    for row, best in zip(_explored(policy, history, ["a", "b"], temperature=[0.0]), _ask(policy, history), strict=True):
        assert [item for item, _, _ in row] == [item for item, _ in best]
    # All chance: one in as many as are left.
    (uniform,) = _explored(policy, [["item-3"]], ["a"], epsilon=[1.0])
    assert [propensity for _, _, propensity in uniform] == pytest.approx([1 / (K - place) for place in range(K)], rel=1e-4)


def test_wishes_count_where_chance_does(policy: ServedPolicy):
    (found,) = _explored(policy, [["item-3"]], ["a"], candidates=[["item-7", "item-8", "item-9"]], exclude=[["item-8"]], epsilon=[1.0])
    assert {item for item, _, _ in found} == {"item-7", "item-9"}
    assert [propensity for _, _, propensity in found] == pytest.approx([0.5, 1.0])
    # Of an order only the beginning is shown; the probabilities are those of the whole.
    (whole,), (beginning,) = (_explored(policy, [["item-3"]], ["a"], k=[k]) for k in (K, 2))
    assert whole[:2] == beginning
    assert _explored(policy, [["item-3"]], ["a"], exclude=[NAMES]) == [[]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e38, -5.0, 0.0])
def test_chance_that_makes_no_sense_is_kept_within_bounds(policy: ServedPolicy, value: float):
    for name in ("temperature", "epsilon"):
        assert len(_explored(policy, [["item-3", "item-4"]], ["a"], **{name: [value]})[0]) == K


# === Scores ===


def test_candidates_are_scored_in_their_order(policy: ServedPolicy):
    scores = _all_scores(policy, ["item-3", "item-4"])
    candidates = ["item-9", "", "never seen", "item-4", "item-9"]
    found = policy.score_candidates(_strings([["item-3", "item-4"]]), tf.constant([candidates]))["score"].numpy()[0].tolist()
    assert found == pytest.approx([scores["item-9"], NOTHING, NOTHING, scores["item-4"], scores["item-9"]], rel=1e-4)


def test_scores_of_a_policy_are_log_probabilities(tmp_path: Path):
    scores = _all_scores(_served(tmp_path, toy.shake(toy.build("bc"))), ["item-3", "item-3", "never seen"])
    assert np.exp(list(scores.values())).sum() == pytest.approx(1.0, abs=1e-4)


# === Examples ===


def _example(**features: list[Any]) -> bytes:
    kinds = {str: "bytes_list", int: "int64_list", float: "float_list"}
    found = tf.train.Example()
    for name, values in features.items():
        plain = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(found.features.feature[name], kinds[type(values[0])]).value.extend(plain)
    serialized: bytes = found.SerializeToString()
    return serialized


def test_examples_get_what_recommend_gives(policy: ServedPolicy):
    examples = [
        _example(item_history=["item-3", "item-4"], exclude=["item-5", "item-6"], k=[4]),
        _example(item_history=["item-9"] * 20, candidates=["item-1", "item-2"]),
        _example(allow_tags=["last"]),
        b"",
    ]
    answer = policy.serving_examples(tf.constant(examples))
    expected = [
        *_ask(policy, [["item-3", "item-4"]], exclude=[["item-5", "item-6"]], k=[4]),
        *_ask(policy, [["item-9"] * 20], candidates=[["item-1", "item-2"]]),
        *_ask(policy, [[]], allow_tags=[["last"]]),
        *_ask(policy, [[]]),
    ]
    assert answer["num_valid"].numpy().tolist() == [len(row) for row in expected]
    for items, row in zip(answer["item_id"].numpy(), expected, strict=True):
        assert [item.decode() for item in items[: len(row)]] == [item for item, _ in row]


def test_what_is_no_example_is_refused(policy: ServedPolicy):
    with pytest.raises(tf.errors.InvalidArgumentError):
        policy.serving_examples(tf.constant([b"no example"]))


# === Returns ===


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> ServedPolicy:
    return _served(tmp_path_factory.mktemp("told"), toy.shake(toy.build("decision_transformer")), ReturnServedPolicy)


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_a_return_beyond_all_bounds_is_answered(told: ServedPolicy, value: float):
    # The earlier rewards of a history that is too long add up to more than a number holds.
    history, rewards = _strings([["item-3"] * 30]), tf.fill([1, 30], value)
    for target in (value, -value, float("nan")):
        answer = told.recommend(history, target_return=tf.constant([target]), reward_history=rewards)
        assert answer["num_valid"].numpy().tolist() == [K]
        assert np.isfinite(answer["score"].numpy()).all()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_return_that_is_no_number_says_nothing(told: ServedPolicy, value: float):
    history = _strings([["item-3", "item-4"]])
    silent = told.recommend(history)
    for answer in (
        told.recommend(history, target_return=tf.constant([value])),
        told.recommend(history, reward_history=tf.constant([[value, value]])),
        told.serve_return(history, target_return=tf.constant([value])),
    ):
        assert (answer["item_id"].numpy() == silent["item_id"].numpy()).all()
        assert np.isfinite(answer["score"].numpy()).all()


def test_a_return_counts_in_every_signature(told: ServedPolicy):
    history, target, reward = _strings([["item-3", "item-4"]]), tf.constant([5.0]), tf.constant([[0.2, 1.0]])
    expected = told.serve_return(history, target_return=target, reward_history=reward)
    assert not np.allclose(expected["score"].numpy(), told.serve(history)["score"].numpy())
    answer = told.recommend(history, target_return=target, reward_history=reward)
    assert np.allclose(answer["score"].numpy(), expected["score"].numpy(), atol=1e-5)
    scores = told.score_candidates(history, expected["item_id"], target_return=target, reward_history=reward)
    assert np.allclose(scores["score"].numpy(), expected["score"].numpy(), atol=1e-4)
    # Rewards beyond the history count for nothing.
    example = _example(item_history=["item-3", "item-4"], target_return=[5.0], reward_history=[0.2, 1.0, 7.0])
    assert np.allclose(told.serving_examples(tf.constant([example]))["score"].numpy(), expected["score"].numpy(), atol=1e-5)
