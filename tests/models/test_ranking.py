"""The best K of the mixture against the whole mixture, sorted."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.ranking import LEAST, CatalogueScores, PolicyState, Ranking, best, best_of_catalogue, draw, sum_by_item, top_k

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

NOTHING = -1e29
"""Scores below stand for no item."""


def _state(vectors: np.ndarray, gates: np.ndarray, weights: np.ndarray) -> PolicyState:
    with np.errstate(divide="ignore"):
        log_gates = np.maximum(np.log(np.pad(gates, [(0, 0), (0, 1)])), -1e30)
    copied = tf.constant(weights, tf.float32)
    return PolicyState(tf.constant(vectors, tf.float32), tf.constant(log_gates, tf.float32), copied, tf.zeros_like(copied))


def _mixture(state: np.ndarray, gates: np.ndarray, weights: np.ndarray, session: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """[N-1] probability of items 1..N-1 in one state, item by item."""
    logits = vectors[1:n] @ state
    seen = np.isin(np.arange(1, n), session)
    catalogue = np.where(seen, 0.0, np.exp(logits - logits.max()))
    catalogue /= max(catalogue.sum(), 1e-300)
    copied = np.array([weights[session == item].sum() for item in range(1, n)])
    return np.where(seen, gates[1] * copied, gates[0] * catalogue)


def _brute_force(probability: np.ndarray, k: int, excluded: np.ndarray) -> tuple[list[int], list[float]]:
    """The best K by falling probability, then rising id."""
    left = [item for item in range(1, len(probability) + 1) if item not in excluded]
    with np.errstate(divide="ignore"):
        log_probability = np.maximum(np.log(probability), LEAST)
    # Ten digits: what is equal by arithmetic is equal here, and nothing else is.
    order = sorted(left, key=lambda item: (-round(float(log_probability[item - 1]), 10), item))[:k]
    return order, [float(log_probability[item - 1]) for item in order]


def _random_case(seed: int) -> dict[str, np.ndarray]:
    """Small whole numbers as vectors, so that many items have exactly the same score; weights are 64ths, so that sums are exact."""
    rng = np.random.default_rng(seed)
    # Most catalogues are so small that items repeat; some span several blocks of 64.
    n = int(rng.integers(2, 12)) if seed % 4 else int(rng.choice([64, 65, 66, 128, 129, 130, 200]))
    rows, steps, width = 4, int(rng.integers(0, 8)), 2
    # 0 is padding, n the unknown item.
    session = rng.integers(0, n + 1, (rows, steps))
    weights = rng.integers(0, 9, (rows, steps)) * ((session > 0) & (session < n))
    weights = weights / 64.0
    gate = rng.choice([0.0, 0.25, 0.5, 0.75], rows)
    gate = np.where(weights.sum(axis=1) > 0, gate, 0.0)
    return {
        "states": rng.integers(-2, 3, (rows, width)).astype(float),
        "gates": np.stack([1.0 - gate, gate], axis=1),
        "weights": weights,
        "session": session,
        "vectors": rng.integers(-1, 2, (n + 1, width)).astype(float),
        "n": np.array(n),
        "k": rng.integers(1, 2 * n + 2),
        "excluded": rng.integers(0, n + 2, (rows, int(rng.integers(0, min(2 * n, 40))))),
    }


def _rank(case: dict[str, np.ndarray], excluded: bool) -> Ranking:
    return top_k(
        _state(case["states"], case["gates"], case["weights"]),
        tf.constant(case["session"], tf.int32),
        tf.constant(case["vectors"], tf.float32),
        int(case["n"]),
        int(case["k"]),
        tf.constant(case["excluded"], tf.int32) if excluded else None,
    )


@pytest.mark.parametrize("excluded", [False, True], ids=["nothing_excluded", "some_excluded"])
def test_the_best_are_those_of_the_whole_mixture_sorted(excluded: bool):
    for seed in range(80):
        case = _random_case(seed)
        found, k = _rank(case, excluded), int(case["k"])
        for row in range(4):
            probability = _mixture(
                case["states"][row], case["gates"][row], case["weights"][row], case["session"][row], case["vectors"], int(case["n"])
            )
            ids, scores = _brute_force(probability, k, case["excluded"][row] if excluded else np.zeros(0))
            message = f"seed {seed}, row {row}"
            assert found.item_id.numpy()[row].tolist() == ids + [0] * (k - len(ids)), message
            assert found.score.numpy()[row][: len(ids)] == pytest.approx(scores, abs=1e-5), message
            assert (found.score.numpy()[row][len(ids) :] < NOTHING).all(), message


def test_random_cases_hold_ties_repetitions_and_more_places_than_items():
    # The test above says nothing if its cases are too easy.
    cases = [_random_case(seed) for seed in range(80)]
    assert sum(int(case["k"]) > int(case["n"]) - 1 for case in cases) > 10
    assert sum(case["session"].shape[1] == 0 for case in cases) > 3
    repeated = [len(set(row[row > 0])) < (row > 0).sum() for case in cases for row in case["session"]]
    assert sum(repeated) > 50
    assert sum((case["session"] == case["n"]).any() for case in cases) > 20
    tied = 0
    for case in cases:
        logits = case["vectors"][1 : int(case["n"])] @ case["states"].T
        tied += any(len(set(column)) < len(column) for column in logits.T)
    assert tied > 40


def test_items_with_equal_scores_come_by_rising_id():
    # Ten items with the same vector, and nobody has seen any.
    state = _state(np.ones((1, 2)), np.array([[1.0, 0.0]]), np.zeros((1, 3)))
    found = top_k(state, tf.constant([[0, 0, 0]]), tf.ones([12, 2]), 11, 10)
    assert found.item_id.numpy()[0].tolist() == list(range(1, 11))
    assert found.score.numpy()[0] == pytest.approx(np.full(10, np.log(0.1)), abs=1e-6)


def test_a_repeated_item_stands_once_with_all_its_weight():
    # Catalogue: three equal items, gate .5, and only item 1 is not in the session. Item 2 is copied with 1/4 + 1/2, item 3 with 1/4:
    # p = [1/2, 3/8, 1/8]
    state = _state(np.zeros((1, 2)), np.array([[0.5, 0.5]]), np.array([[0.25, 0.25, 0.5]]))
    found = top_k(state, tf.constant([[2, 3, 2]]), tf.ones([5, 2]), 4, 3)
    assert found.item_id.numpy()[0].tolist() == [1, 2, 3]
    assert np.exp(found.score.numpy()[0]) == pytest.approx([1 / 2, 3 / 8, 1 / 8], rel=1e-5)


def test_a_head_without_a_copy_part_ranks_the_session_with_the_catalogue():
    state = _state(np.ones((1, 2)), np.array([[1.0, 0.0]]), np.zeros((1, 3)))
    found = top_k(state, tf.constant([[7, 3, 0]]), tf.ones([12, 2]), 11, 10, copies=False)
    assert found.item_id.numpy()[0].tolist() == list(range(1, 11))
    assert found.score.numpy()[0] == pytest.approx(np.full(10, np.log(0.1)), abs=1e-6)


def test_scores_of_the_whole_catalogue_are_a_distribution():
    case = {**_random_case(3), "k": np.array(20)}
    case["weights"] = np.where(
        case["weights"].sum(axis=1, keepdims=True) > 0, case["weights"] / np.maximum(case["weights"].sum(axis=1, keepdims=True), 1e-9), 0.0
    )
    case["gates"] = np.where(case["weights"].sum(axis=1, keepdims=True) > 0, [0.5, 0.5], [1.0, 0.0])
    score = _rank(case, excluded=False).score.numpy()
    assert np.exp(score).sum(axis=1) == pytest.approx(np.ones(4), rel=1e-5)


def test_everything_excluded_leaves_nothing():
    state = _state(np.zeros((1, 2)), np.array([[0.5, 0.5]]), np.array([[1.0]]))
    found = top_k(state, tf.constant([[2]]), tf.ones([5, 2]), 4, 3, tf.constant([[1, 2, 3]]))
    assert found.item_id.numpy()[0].tolist() == [0, 0, 0]
    assert (found.score.numpy() < NOTHING).all()


def test_an_excluded_item_of_the_session_does_not_come_back_through_the_catalogue():
    state = _state(np.zeros((1, 2)), np.array([[0.1, 0.9]]), np.array([[0.5, 0.5]]))
    found = top_k(state, tf.constant([[2, 2]]), tf.ones([5, 2]), 4, 3, tf.constant([[2]]))
    assert found.item_id.numpy()[0].tolist() == [1, 3, 0]


def test_a_score_far_below_the_others_is_still_an_item():
    # exp(-200) is 0 in float32; its logarithm is not.
    vectors = tf.constant([[0.0], [100.0], [-100.0], [0.0]])
    found = top_k(_state(np.ones((1, 1)), np.array([[1.0, 0.0]]), np.zeros((1, 0))), tf.zeros([1, 0], tf.int32), vectors, 3, 2)
    assert found.item_id.numpy()[0].tolist() == [1, 2]
    assert found.score.numpy()[0] == pytest.approx([0.0, -200.0])


def test_rows_are_ranked_on_their_own():
    case = _random_case(5)
    together = _rank(case, excluded=True)
    for row in range(4):
        alone = _rank({**case, **{name: case[name][row : row + 1] for name in ("states", "gates", "weights", "session", "excluded")}}, True)
        assert alone.item_id.numpy()[0].tolist() == together.item_id.numpy()[row].tolist()


def test_the_best_of_given_candidates_are_those_with_the_greatest_scores():
    found = best(tf.constant([[5, 3, 9, 4]]), tf.constant([[1.0, 2.0, 2.0, -1e30]]), 5)
    assert found.item_id.numpy()[0].tolist() == [3, 9, 5, 0, 0]
    assert found.score.numpy()[0][:3].tolist() == [2.0, 2.0, 1.0]


# === Scores that repetition may lower ===


def _scores_case(seed: int) -> dict[str, np.ndarray]:
    """Whole numbers as scores, so that many are equal; items of the session have others, on both sides of what they had."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12)) if seed % 4 else int(rng.choice([64, 65, 66, 129, 130, 200]))
    rows, steps = 4, int(rng.integers(0, 8))
    catalogue, own_by_item = rng.integers(-3, 4, (rows, n - 1)), rng.integers(-6, 7, (rows, n + 1))
    # Sessions of the items that the catalogue likes best: if they fall, others must come up.
    liked = np.argsort(-catalogue, axis=1, kind="stable") + 1
    session = np.take_along_axis(liked, rng.integers(0, min(5, n - 1), (rows, steps)), axis=1)
    session = np.where(rng.random((rows, steps)) < 0.2, rng.choice([0, n], (rows, steps)), session)
    return {
        "catalogue": catalogue.astype(float),
        "offset": rng.integers(-2, 3, (rows, 1)).astype(float),
        "own": np.take_along_axis(own_by_item, session, axis=1).astype(float),
        "session": session,
        "n": np.array(n),
        "k": rng.integers(1, n + 3),
        "excluded": rng.integers(0, n + 2, (rows, int(rng.integers(0, min(2 * n, 40))))),
    }


def _rank_scores(case: dict[str, np.ndarray], excluded: bool) -> Ranking:
    logits = CatalogueLogits.of_scores(tf.constant(case["catalogue"], tf.float32))
    own = tf.constant(case["own"], tf.float32)
    session = tf.constant(case["session"], tf.int32)
    scores = CatalogueScores(logits, tf.constant(case["offset"], tf.float32), session, own, num_falling=session.shape[1])
    banned = tf.constant(case["excluded"], tf.int32) if excluded else None
    return best_of_catalogue(scores, int(case["n"]), int(case["k"]), banned)


@pytest.mark.parametrize("excluded", [False, True], ids=["nothing_excluded", "some_excluded"])
def test_the_best_are_those_of_all_scores_sorted_where_items_of_the_session_may_fall(excluded: bool):
    fallen = 0
    for seed in range(80):
        case = _scores_case(seed)
        found, k, n = _rank_scores(case, excluded), int(case["k"]), int(case["n"])
        for row in range(4):
            scores = case["catalogue"][row] + case["offset"][row]
            before = scores.copy()
            for item, own in zip(case["session"][row], case["own"][row], strict=True):
                if 0 < item < n:
                    scores[item - 1] = own
            banned = set(case["excluded"][row].tolist()) if excluded else set()
            order = sorted((item for item in range(1, n) if item not in banned), key=lambda item: (-scores[item - 1], item))[:k]
            fallen += int((scores < before).any())
            message = f"seed {seed}, row {row}"
            assert found.item_id.numpy()[row].tolist() == order + [0] * (k - len(order)), message
            assert found.score.numpy()[row][: len(order)].tolist() == [scores[item - 1] for item in order], message
            assert (found.score.numpy()[row][len(order) :] < NOTHING).all(), message
    # It says nothing where none falls.
    assert fallen > 100


def test_items_of_the_session_that_fall_make_room_for_as_many_others():
    # The catalogue likes items 1 to 5 best, all of them were there and are now the worst: the next three come up.
    scores = tf.constant([np.arange(20.0, 0.0, -1.0)], tf.float32)
    session = tf.constant([[3, 1, 2, 5, 4]])
    case = CatalogueScores(CatalogueLogits.of_scores(scores), tf.zeros([1, 1]), session, tf.fill([1, 5], -9.0), num_falling=5)
    found = best_of_catalogue(case, 21, 3)
    assert found.item_id.numpy()[0].tolist() == [6, 7, 8]
    with_one_out = best_of_catalogue(case, 21, 3, tf.constant([[7, 0]]))
    assert with_one_out.item_id.numpy()[0].tolist() == [6, 8, 9]


@pytest.mark.parametrize("copy_head", [True, False], ids=["copy", "no_copy"])
@pytest.mark.parametrize("bonus", [-50.0, -1.0, 0.0, 1.0, 50.0])
def test_values_are_ranked_with_the_bonus_of_repetition_whatever_its_sign(bonus: float, copy_head: bool):
    algorithm = toy.shake(toy.build("dqn", toy.network(copy_head=copy_head)))
    if copy_head:
        algorithm.values.gain.bias.assign([bonus])
    batch = toy.batch([[3, 5, 3, 9], [toy.UNKNOWN, 2, 2], [7]])
    mask = tf.sequence_mask(batch.length, 4)
    state, history = algorithm.evaluation_states(batch.item_id, mask)
    values = state["values"]
    table = algorithm.values.table.numpy()[1 : toy.NUM_ITEMS]
    for k in (3, 20):
        found = algorithm.rank(state, history, k)
        for place in range(len(history)):
            scores = table @ values.states.numpy()[place]
            for item, weight in zip(history.numpy()[place], values.copy_weights.numpy()[place], strict=True):
                if 0 < item < toy.NUM_ITEMS:
                    scores[item - 1] += values.bonus.numpy()[place, 0] * weight
            items = found.item_id.numpy()[place].tolist()
            assert items == (np.argsort(-scores)[:k] + 1).tolist()
            assert len(set(items)) == k
            assert found.score.numpy()[place] == pytest.approx(np.sort(scores)[::-1][:k], rel=1e-4, abs=1e-4)


def test_weights_are_summed_by_item():
    # Items 3, 5, 3 with .1, .2, .4: both events of item 3 have .5.
    found = sum_by_item(tf.constant([[3, 5, 3], [0, 7, 0]]), tf.constant([[0.1, 0.2, 0.4], [0.0, 1.0, 0.0]]))
    assert found.numpy() == pytest.approx(np.array([[0.5, 0.2, 0.5], [0.0, 1.0, 0.0]]))


def test_draws_have_the_probabilities_of_the_ranking():
    # .5, .25 and .25 of all; of the first two alone, two thirds and one third. A place without an item is never drawn.
    score = np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 1e-300]]).clip(-1e30)
    score[1, 2] = -1e30
    uniform = (np.arange(1200) + 0.5) / 1200
    for row, expected in enumerate(([600, 300, 300], [800, 400, 0])):
        ranking = Ranking(tf.constant([[7, 3, 9]] * 1200), tf.constant(np.tile(score[row], (1200, 1)), tf.float32))
        drawn = draw(ranking, tf.constant(uniform, tf.float32)).numpy()
        assert [(drawn == item).sum() for item in (7, 3, 9)] == pytest.approx(expected, abs=1)
