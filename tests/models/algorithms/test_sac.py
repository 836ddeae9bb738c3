"""Self-supervised actor-critic: two phases, and the weight of the second."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("phase", ["warm_up", "actor"])
def test_the_losses_are_those_of_a_slow_computation(softmax: str, phase: str):
    algorithm = slow.build("sac", softmax, discount=0.7)
    values, mask = slow.Values(algorithm), slow.mask(algorithm)
    logged = values.logged()[..., 0]
    weight = logged if phase == "actor" else 1.0
    found = slow.parts(algorithm, phase=phase)
    assert found["cross_entropy"] == pytest.approx(-weight * slow.log_prob(algorithm) * mask, rel=1e-4, abs=1e-5)
    expected = 0.5 * (values.bootstrapped(0.7, values.double_q) - logged) ** 2
    assert found["td"] == pytest.approx(expected * mask, rel=1e-4, abs=1e-5)


def test_warming_up_is_sqn():
    sac, sqn = (slow.parts(algorithm, **phase) for algorithm, phase in ((slow.build("sac"), {"phase": "warm_up"}), (slow.build("sqn"), {})))
    assert list(sac) == list(sqn)
    for name in sac:
        assert sac[name] == pytest.approx(sqn[name], rel=1e-5), name


def test_a_negative_value_turns_the_cross_entropy_round():
    # Used as it is, as the published code does.
    algorithm = slow.few_items("sac", 2)
    slow.say(algorithm.values, [-0.5, 2.0])
    found, plain = (slow.parts(algorithm, toy.batch([[1, 2]]), phase=phase)["cross_entropy"] for phase in ("actor", "warm_up"))
    assert found == pytest.approx(plain * [[-0.5, 2.0]], rel=1e-5)


def test_the_weight_gets_no_gradient():
    found = slow.gradients(slow.build("sac"), "cross_entropy", phase="actor")
    for path, gradient in found.items():
        if path.startswith(("values/", "target/")):
            assert gradient is None, path
    assert np.abs(found["encoder/embedding/0"]).max() > 0.0


@pytest.mark.parametrize(("warm_up", "names"), [(0, ["actor"] * 4), (2, ["warm_up"] * 2 + ["actor"] * 2), (9, ["warm_up"] * 4)])
def test_the_second_phase_begins_after_the_warm_up(warm_up: int, names: list[str]):
    algorithm = slow.build("sac", warm_up_steps=warm_up)
    assert [algorithm.phase(step).name for step in range(4)] == names
    assert {phase.name for phase in algorithm.phases} == {"warm_up", "actor"}


def test_both_phases_share_their_moments():
    algorithm = slow.build("sac")
    step = TrainStep(algorithm, lambda rate: LazyAdam(0.5 if rate is None else rate), xla=False)
    assert list(step.optimizers) == ["main"]
    assert float(step.optimizers["main"].learning_rate) == 0.5
