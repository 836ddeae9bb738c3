"""The best K of the mixture against the whole mixture, sorted."""

import numpy as np
import pytest

from models.frameworks import tf
from models.ranking import PolicyState, Ranking, best, top_k

NOTHING = -1e29
"""Scores below stand for no item."""


def _state(vectors: np.ndarray, gates: np.ndarray, weights: np.ndarray) -> PolicyState:
    with np.errstate(divide="ignore"):
        log_gates = np.maximum(np.log(gates), -1e30)
    return PolicyState(tf.constant(vectors, tf.float32), tf.constant(log_gates, tf.float32), tf.constant(weights, tf.float32))


def _mixture(state: np.ndarray, gates: np.ndarray, weights: np.ndarray, session: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """[N-1] probability of items 1..N-1 in one state, item by item."""
    logits = vectors[1:n] @ state
    catalogue = np.exp(logits - logits.max())
    catalogue /= catalogue.sum()
    copied = np.array([weights[session == item].sum() for item in range(1, n)])
    return gates[0] * catalogue + gates[1] * copied


def _brute_force(probability: np.ndarray, k: int, excluded: np.ndarray) -> tuple[list[int], list[float]]:
    """The best K by falling probability, then rising id."""
    left = [item for item in range(1, len(probability) + 1) if item not in excluded]
    # Ten digits: what is equal by arithmetic is equal here, and nothing else is.
    order = sorted(left, key=lambda item: (-round(float(np.log(probability[item - 1])), 10), item))[:k]
    return order, [float(np.log(probability[item - 1])) for item in order]


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
    # Ten items with the same vector; the session's weights leave no item more than another.
    state = _state(np.ones((1, 2)), np.array([[1.0, 0.0]]), np.zeros((1, 3)))
    found = top_k(state, tf.constant([[7, 3, 0]]), tf.ones([12, 2]), 11, 10)
    assert found.item_id.numpy()[0].tolist() == list(range(1, 11))
    assert found.score.numpy()[0] == pytest.approx(np.full(10, np.log(0.1)), abs=1e-6)


def test_a_repeated_item_stands_once_with_all_its_weight():
    # Catalogue: three equal items, gate .5. Item 2 is copied with 1/4 + 1/2, item 3 with 1/4:
    # p = [1/6, 1/6 + 3/8, 1/6 + 1/8]
    state = _state(np.zeros((1, 2)), np.array([[0.5, 0.5]]), np.array([[0.25, 0.25, 0.5]]))
    found = top_k(state, tf.constant([[2, 3, 2]]), tf.ones([5, 2]), 4, 3)
    assert found.item_id.numpy()[0].tolist() == [2, 3, 1]
    assert np.exp(found.score.numpy()[0]) == pytest.approx([1 / 6 + 3 / 8, 1 / 6 + 1 / 8, 1 / 6], rel=1e-5)


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
