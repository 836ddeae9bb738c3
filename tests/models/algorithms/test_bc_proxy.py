"""The control of value methods: its statistics worked by hand."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy

TARGETS = ("events_so_far", "events_to_come", "distinct_items")


@pytest.mark.parametrize(
    ("target", "expected"),
    # Sessions of at most 8 events; 3, 5, 3, 9 and 4, 4, and padding after them.
    [
        ("events_so_far", [[0, 1, 2, 3], [0, 1]]),
        ("events_to_come", [[3, 2, 1, 0], [1, 0]]),
        ("distinct_items", [[0, 1, 2, 2], [0, 1]]),
    ],
)
def test_the_statistic_of_every_event(target: str, expected: list[list[int]]):
    algorithm = slow.build("bc_proxy", target=target)
    found = algorithm.statistic(toy.batch([[3, 5, 3, 9], [4, 4]])).numpy()
    assert found.dtype == np.float32
    for row, counts in enumerate(expected):
        assert found[row, : len(counts)] == pytest.approx(np.array(counts) / 8)


@pytest.mark.parametrize("target", TARGETS)
def test_the_statistic_is_a_share_and_says_nothing_of_rewards(target: str):
    algorithm = slow.build("bc_proxy", target=target)
    sessions = [list(range(1, 9)), [2]]
    one, other = (algorithm.statistic(toy.batch(sessions, reward)).numpy() for reward in (None, [[1.0] * 8, [-3.0]]))
    assert one.tolist() == other.tolist()
    assert 0.0 <= one.min() <= one.max() <= 1.0


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_that_of_the_slow_computation(softmax: str, target: str):
    algorithm = slow.build("bc_proxy", softmax, target=target, weight=0.4)
    batch, mask = slow.batch(), slow.mask(algorithm)
    values = slow.item_values(algorithm.values, algorithm.encoder(batch.item_id).numpy(), batch.item_id.numpy())
    logged = np.take_along_axis(values[:, :-1, 0], batch.item_id.numpy()[:, :, None], axis=2)[..., 0]
    found = slow.parts(algorithm)
    assert list(found) == ["cross_entropy", "proxy"]
    assert found["proxy"] == pytest.approx(0.4 * 0.5 * (algorithm.statistic(batch).numpy() - logged) ** 2 * mask, rel=1e-4, abs=1e-6)
    assert found["cross_entropy"] == pytest.approx(-slow.log_prob(algorithm) * mask, rel=1e-5)


def test_rewards_change_nothing():
    algorithm = slow.build("bc_proxy")
    batch = slow.batch()
    changed = batch._replace(reward=batch.reward * -7.0, return_to_go=batch.return_to_go + 1.0)
    one, other = slow.parts(algorithm), slow.parts(algorithm, changed)
    assert {name: part.tolist() for name, part in one.items()} == {name: part.tolist() for name, part in other.items()}


def test_the_head_is_that_of_sqn_and_the_rest_is_behaviour_cloning():
    proxy, sqn, bc = ({path: v.shape for path, v in slow.build(name).named_variables().items()} for name in ("bc_proxy", "sqn", "bc"))
    assert proxy == {path: shape for path, shape in sqn.items() if not path.startswith("target/")}
    assert {path for path in proxy if not path.startswith("values/")} == set(bc)


def test_the_policy_recommends_and_nothing_else():
    algorithm = slow.build("bc_proxy")
    assert (algorithm.heads, algorithm.recommender) == (("policy",), "policy")
