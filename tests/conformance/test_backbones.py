"""What every backbone keeps to, straight from the registry."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from models.algorithms.base import NetworkConfig
from models.backbones.base import Backbone
from models.backbones.registry import BACKBONES
from models.frameworks import keras, tf
from schemas.config import ConfigError, canonical_json, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

STEPS = 6
WINDOW = 4
"""Of backbones that see a window; shorter than a sequence."""


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every backbone, and again with every other choice that its configuration offers by name or as true or false."""
    for name, kind in BACKBONES.items():
        yield name, {}
        for field, information in kind.config_class.model_fields.items():
            choices = (True, False) if information.annotation is bool else get_args(information.annotation)
            chosen = isinstance(information.default, (bool, str)) and field != "name"
            yield from ((name, {field: choice}) for choice in choices if chosen and choice != information.default)


CASES = list(_cases())
IDS = ["-".join([name, *(f"{key}={value}" for key, value in changes.items())]) for name, changes in CASES]


def _build(name: str, **changes: Any) -> Backbone:
    toy.seed_everything()
    backbone = BACKBONES[name](toy.backbone(name, **{"window": WINDOW, **changes}), toy.WIDTH, STEPS)
    backbone(tf.zeros([1, 2, toy.WIDTH], keras.mixed_precision.global_policy().compute_dtype))
    return backbone


def _shaken(name: str, **changes: Any) -> Backbone:
    """A backbone whose every weight has been moved."""
    built = _build(name, **changes)
    rng = np.random.default_rng(1)
    for variable in built.variables:
        variable.assign_add(rng.normal(0.0, 0.3, variable.shape).astype(np.float32))
    return built


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, changes = request.param
    return _shaken(name, dropout=0.3, **changes)


@pytest.fixture(scope="module")
def embedded() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, STEPS, toy.WIDTH)).astype(np.float32)


def test_every_step_has_a_state_of_the_stated_width(backbone: Backbone, embedded: np.ndarray):
    for steps in (1, 2, STEPS):
        states = backbone(tf.constant(embedded[:, :steps]))
        assert states.shape == (3, steps, backbone.output_width)
        assert states.dtype == tf.float32
        assert np.isfinite(states.numpy()).all()


def test_a_state_does_not_depend_on_later_inputs(backbone: Backbone, embedded: np.ndarray):
    states = backbone(tf.constant(embedded)).numpy()
    for step in range(STEPS):
        changed = embedded.copy()
        changed[:, step:] = 7.0 - 2.0 * changed[:, step:]
        after = backbone(tf.constant(changed)).numpy()
        assert after[:, :step].tolist() == states[:, :step].tolist(), f"step {step}"
        # The input of a step is part of its own state.
        assert np.abs(after[:, step] - states[:, step]).max() > 1e-3, f"step {step}"


def test_a_state_does_not_depend_on_how_long_the_sequence_is(backbone: Backbone, embedded: np.ndarray):
    states = backbone(tf.constant(embedded)).numpy()
    for steps in range(1, STEPS):
        assert backbone(tf.constant(embedded[:, :steps])).numpy() == pytest.approx(states[:, :steps], abs=1e-5)


def test_rows_do_not_depend_on_each_other(backbone: Backbone, embedded: np.ndarray):
    together = backbone(tf.constant(embedded)).numpy()
    for row in range(3):
        assert backbone(tf.constant(embedded[row : row + 1])).numpy()[0] == pytest.approx(together[row], abs=1e-5)


def test_earlier_inputs_reach_later_states(backbone: Backbone, embedded: np.ndarray):
    changed = embedded.copy()
    changed[:, STEPS - 2] *= -3.0
    difference = np.abs(backbone(tf.constant(changed)).numpy() - backbone(tf.constant(embedded)).numpy())
    assert difference[:, STEPS - 1].max() > 1e-4


def test_the_order_of_the_inputs_matters(backbone: Backbone, embedded: np.ndarray):
    swapped = embedded[:, [1, 0, *range(2, STEPS)]]
    difference = np.abs(backbone(tf.constant(swapped)).numpy() - backbone(tf.constant(embedded)).numpy())
    assert difference[:, 2].max() > 1e-4


def test_every_weight_gets_a_gradient(backbone: Backbone, embedded: np.ndarray):
    mix = tf.constant(np.random.default_rng(2).normal(size=(3, STEPS, backbone.output_width)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(tf.constant(embedded)) * mix)
    names = {id(variable): path for path, variable in backbone.named_variables().items()}
    for variable, gradient in zip(backbone.trainable_variables, tape.gradient(loss, backbone.trainable_variables), strict=True):
        assert gradient is not None, names[id(variable)]
        value = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(value).all(), names[id(variable)]
        assert np.abs(value).max() > 1e-7, names[id(variable)]


def test_only_training_is_noisy(backbone: Backbone, embedded: np.ndarray):
    one, other = backbone(tf.constant(embedded)).numpy(), backbone(tf.constant(embedded)).numpy()
    assert one.tolist() == other.tolist()
    noisy = backbone(tf.constant(embedded), training=True).numpy()
    if "dropout" in backbone.config_class.model_fields:
        assert np.abs(noisy - one).max() > 1e-3
    else:
        assert noisy.tolist() == one.tolist()


@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_without_dropout_training_is_calm(name: str, changes: dict[str, Any], embedded: np.ndarray):
    backbone = _build(name, dropout=0.0, **changes)
    calm, training = backbone(tf.constant(embedded)).numpy(), backbone(tf.constant(embedded), training=True).numpy()
    assert training == pytest.approx(calm, abs=1e-6)


def test_a_compiled_pass_of_any_size_gives_the_same_states(backbone: Backbone, embedded: np.ndarray):
    def both(sequence: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return backbone(sequence), backbone.window(sequence, length)

    compiled = tf.function(both, autograph=False, input_signature=[tf.TensorSpec([None, None, toy.WIDTH]), tf.TensorSpec([None], tf.int32)])
    for rows, steps in ((3, STEPS), (2, 1)):
        part, length = tf.constant(embedded[:rows, :steps]), tf.range(rows) % (steps + 1)
        for found, expected in zip(compiled(part, length), both(part, length), strict=True):
            assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_in_mixed_precision_states_are_finite_and_of_the_type_that_computes(name: str, changes: dict[str, Any], embedded: np.ndarray):
    whole, length = _shaken(name, dropout=0.3, **changes), tf.constant([0, 1, STEPS])
    with toy.precision("mixed_bfloat16"):
        mixed = _shaken(name, dropout=0.3, **changes)
        inputs = tf.constant(embedded, tf.bfloat16)
        with tf.GradientTape() as tape:
            states, windows = mixed(inputs, training=True), mixed.window(inputs, length, training=True)
            loss = tf.reduce_sum(tf.cast(states, tf.float32)) + tf.reduce_sum(tf.cast(windows, tf.float32))
        assert (states.dtype, windows.dtype) == (tf.bfloat16, tf.bfloat16)
        assert {variable.dtype for variable in mixed.variables} == {tf.float32}
        for gradient in tape.gradient(loss, mixed.trainable_variables):
            assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()
        # Eight bits of precision, through a few layers.
        for found, expected in ((mixed(inputs), whole(embedded)), (mixed.window(inputs, length), whole.window(embedded, length))):
            difference = np.abs(tf.cast(found, tf.float32).numpy() - expected.numpy())
            assert np.isfinite(difference).all()
            assert difference.mean() < 0.05 * np.abs(expected.numpy()).mean()


# === Windows ===


def test_a_full_window_has_the_state_of_the_causal_pass(backbone: Backbone, embedded: np.ndarray):
    # Full for those that have a window of their own; others have the state of any length.
    causal = backbone(tf.constant(embedded)).numpy()
    for length in range(WINDOW, STEPS + 1):
        states = backbone.window(tf.constant(embedded), tf.fill([3], length))
        assert states.shape == (3, backbone.output_width)
        assert states.dtype == tf.float32
        assert states.numpy() == pytest.approx(causal[:, length - 1], abs=1e-5), f"length {length}"


def test_padding_after_the_items_changes_nothing(backbone: Backbone, embedded: np.ndarray):
    for length in range(1, STEPS + 1):
        changed = embedded.copy()
        changed[:, length:] = 7.0 - 2.0 * changed[:, length:]
        lengths = tf.fill([3], length)
        found = backbone.window(tf.constant(changed), lengths).numpy()
        assert found.tolist() == backbone.window(tf.constant(embedded), lengths).numpy().tolist(), f"length {length}"
        # Nor does more of it.
        shorter = backbone.window(tf.constant(embedded[:, :length]), lengths).numpy()
        assert found == pytest.approx(shorter, abs=1e-5), f"length {length}"


def test_every_history_has_the_state_that_it_has_alone(backbone: Backbone, embedded: np.ndarray):
    length = np.array([0, 2, STEPS], np.int32)
    together = backbone.window(tf.constant(embedded), tf.constant(length)).numpy()
    assert np.isfinite(together).all()
    for row in range(3):
        alone = backbone.window(tf.constant(embedded[row : row + 1]), tf.constant(length[row : row + 1])).numpy()
        assert alone[0] == pytest.approx(together[row], abs=1e-5)


def test_an_empty_history_knows_nothing_after_the_first_place(backbone: Backbone, embedded: np.ndarray):
    changed = embedded.copy()
    changed[:, 1:] += 3.0
    empty = tf.zeros([3], tf.int32)
    assert backbone.window(tf.constant(changed), empty).numpy().tolist() == (backbone.window(tf.constant(embedded), empty).numpy().tolist())


def test_gradients_of_a_window_are_finite_and_reach_its_items_alone(backbone: Backbone, embedded: np.ndarray):
    inputs = tf.Variable(embedded)
    mix = tf.constant(np.random.default_rng(2).normal(size=(3, backbone.output_width)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone.window(inputs, tf.constant([0, 2, STEPS])) * mix)
    gradient, *others = tape.gradient(loss, [inputs, *backbone.trainable_variables])
    assert all(np.isfinite(tf.convert_to_tensor(other).numpy()).all() for other in others)
    size = np.abs(gradient.numpy()).max(axis=-1)
    assert (size[0, 1:] == 0.0).all()
    assert (size[1, 2:] == 0.0).all()
    assert (size[1, :2] > 0.0).all()
    assert size[2, STEPS - 1] > 0.0


# === Configurations ===


@pytest.mark.parametrize("name", BACKBONES)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str):
    weights = []
    for seed in (3, 3, 4):
        toy.seed_everything(seed)
        backbone = BACKBONES[name](toy.backbone(name), toy.WIDTH, STEPS)
        backbone(tf.zeros([1, 2, toy.WIDTH]))
        weights.append(np.concatenate([variable.numpy().ravel() for variable in backbone.variables]))
    assert weights[0].tolist() == weights[1].tolist()
    assert weights[0].tolist() != weights[2].tolist()


@pytest.mark.parametrize("name", BACKBONES)
def test_the_configuration_comes_back_from_json_as_it_was(name: str):
    config = NetworkConfig(backbone=toy.backbone(name), width=toy.WIDTH)
    again = decode(NetworkConfig, json.loads(canonical_json(config)), "test")
    assert again == config
    assert type(again.backbone) is BACKBONES[name].config_class
    assert again.backbone.name == name


@pytest.mark.parametrize("name", BACKBONES)
def test_an_unknown_key_of_a_backbone_is_an_error_that_names_it(name: str):
    with pytest.raises(ConfigError, match=r"backbone\.widht: unknown key"):
        decode(NetworkConfig, {"backbone": {"name": name, "widht": 3}}, "test")


def test_an_unknown_backbone_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"backbone\.name: unknown name 'sasrek'.*did you mean 'sasrec'"):
        decode(NetworkConfig, {"backbone": {"name": "sasrek"}}, "test")
