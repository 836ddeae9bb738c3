"""DT4Rec: the contrast between the logged return and others."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


def _algorithm(levels: int = 3, **changes):
    algorithm = slow.build("dt4rec", return_levels=levels, return_buckets=6, **changes)
    for name, value in {"least": 0.0, "target": 2.0, "scale": 0.5, "greatest": 4.0}.items():
        getattr(algorithm.returns, name).assign([value])
    return algorithm


def test_other_returns_are_those_of_the_session_had_another_one_been_wanted():
    # Levels 0, 1 and 2; the session had 1, so that level is no other, and what would fall below the least return stays there.
    returns, weight = _algorithm().other_returns(tf.constant([[1.0, 0.8, 0.0]]))
    assert returns.numpy()[0] == pytest.approx(np.array([[0.0, 0.0, 0.0], [1.0, 0.8, 0.0], [2.0, 1.8, 1.0]]), abs=1e-6)
    # 1 / (1 + 0), nothing, 1 / (1 + 2 / .5).
    assert weight.numpy()[0] == pytest.approx([1.0, 0.0, 0.2])


def test_the_contrastive_loss_is_that_of_a_slow_computation():
    algorithm = _algorithm(contrastive_weight=0.4, temperature=0.7)
    batch = slow.batch()
    states = algorithm.encoder(batch.item_id)
    others, weight = (tensor.numpy() for tensor in algorithm.other_returns(batch.return_to_go))

    def hidden(returns: np.ndarray) -> np.ndarray:
        padded = tf.pad(tf.constant(returns), [[0, 0], [0, 1]])
        found: np.ndarray = algorithm.read(states, batch.item_id, padded).numpy()[:, :-1]
        return found / np.linalg.norm(found, axis=-1, keepdims=True)

    item = algorithm.encoder.embedding(batch.item_id).numpy()
    item = item / np.linalg.norm(item, axis=-1, keepdims=True)
    right = np.exp((hidden(batch.return_to_go.numpy()) * item).sum(axis=-1) / 0.7)
    wrong = sum(weight[:, level, None] * np.exp((hidden(others[:, level]) * item).sum(axis=-1) / 0.7) for level in range(3))
    expected = -0.4 * np.log(right / (right + wrong))
    assert slow.parts(algorithm)["contrastive"] == pytest.approx(expected * slow.mask(algorithm), rel=1e-3, abs=1e-5)


def test_without_the_contrast_it_is_the_likelihood_alone_as_in_the_released_code():
    found = slow.parts(_algorithm(contrastive_weight=0.0))
    assert list(found) == ["cross_entropy"]
    assert found["cross_entropy"] == pytest.approx(slow.parts(_algorithm())["cross_entropy"], rel=1e-5)
