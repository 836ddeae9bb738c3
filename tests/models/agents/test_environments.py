"""Time steps of a small world worked out by hand, and frameworks that fit together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.agents.environments import SessionEnvironment, as_specs
from models.simulators.base import Space
from models.simulators.stitching import Stitching, StitchingConfig

# Behind our own imports, which choose Keras 2.
from tf_agents.specs import array_spec, tensor_spec  # isort: skip


def test_time_steps_of_two_rows() -> None:
    # Halves of one step: state 0, the junction 1, the end 2; action 0 is right in state 0, action 1 at the junction.
    environment = SessionEnvironment(Stitching(StitchingConfig(steps_per_half=1, num_actions=2)), batch_size=2, seed=0)
    first, middle, last = 0, 1, 2
    steps = [environment.reset()]
    steps += [environment.step(np.array(action)) for action in ([0, 1], [1, 1], [1, 1], [0, 0], [0, 1])]
    assert [step.step_type.tolist() for step in steps] == [[kind] * 2 for kind in (first, middle, last, first, middle, last)]
    # The fourth action is not used: the sessions before it are over.
    assert [step.reward.tolist() for step in steps] == [[0, 0], [1, 0], [2, 2], [0, 0], [1, 1], [0, 2]]
    assert [step.discount.tolist() for step in steps] == [[1, 1], [1, 1], [0, 0], [1, 1], [1, 1], [0, 0]]
    assert [step.observation.tolist() for step in steps] == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 1], [2, 2]]
    assert (environment.num_begun, environment.num_finished) == (4, 4)


def test_a_spec_whose_bounds_have_two_shapes_can_be_sampled() -> None:
    # TF-Agents builds networks from samples of the specs.
    spec = as_specs(Space("seen", (2,), np.float32, 0.0, np.array([1.0, 5.0], np.float32)))
    assert (spec.minimum.tolist(), spec.maximum.tolist()) == ([0.0, 0.0], [1.0, 5.0])
    found = array_spec.sample_spec_nest(spec, np.random.RandomState(0), outer_dims=(200,))
    assert (found.min() >= 0.0, found[:, 0].max() <= 1.0, 4.0 < found[:, 1].max() <= 5.0) == (True, True, True)
    tensor = tensor_spec.sample_spec_nest(tensor_spec.from_spec(spec), outer_dims=(3,))
    assert tensor.shape == (3, 2)


def test_a_first_step_without_reset_begins() -> None:
    environment = SessionEnvironment(Stitching(StitchingConfig()), batch_size=3, seed=0)
    assert environment.step(np.array([0, 0, 0])).is_first().all()
    assert environment.num_begun == 3


IMPORT = """
import models.agents.environments
import tensorflow as tf
print(tf.keras.layers.Layer.__module__)
"""


@pytest.mark.parametrize("asked", [None, "0"], ids=["unset", "Keras 3"])
def test_importing_environments_makes_frameworks_fit_or_says_why_not(repository: Path, asked: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"} | (
        {"TF_USE_LEGACY_KERAS": asked} if asked else {}
    )
    run = subprocess.run([sys.executable, "-c", IMPORT], cwd=repository, env=environ, capture_output=True, text=True, timeout=120)
    if asked is None:
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[-1].startswith("tf_keras.")
    else:
        assert "FrameworkError: TF_USE_LEGACY_KERAS is '0'" in run.stderr
