"""Containers of layers, found by attribute."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.module import Module


class _Inner(Module):
    def __init__(self):
        self.dense = keras.layers.Dense(2)
        self.dense.build([None, 3])


class _Outer(Module):
    def __init__(self):
        self.inner = _Inner()
        self.layers = [keras.layers.Dense(1), keras.layers.Dense(1)]
        for layer in self.layers:
            layer.build([None, 2])
        self.named = {"one": tf.Variable(1.0), "two": tf.Variable(2.0, trainable=False)}
        self.number = 3
        self._hidden = tf.Variable(4.0)
        self.norm = keras.layers.BatchNormalization()
        self.norm.build([None, 2])


@pytest.fixture
def module() -> _Outer:
    return _Outer()


def test_variables_are_named_by_their_attributes(module: _Outer):
    assert list(module.named_variables()) == [
        "inner/dense/0",
        "inner/dense/1",
        "layers_0/0",
        "layers_0/1",
        "layers_1/0",
        "layers_1/1",
        "named_one/0",
        "named_two/0",
        "norm/0",
        "norm/1",
        "norm/2",
        "norm/3",
    ]


def test_names_do_not_depend_on_what_was_made_before():
    # Keras' own names count up in a process.
    assert list(_Outer().named_variables()) == list(_Outer().named_variables())


def test_all_variables_are_named_and_trainable_ones_are_a_part_of_them(module: _Outer):
    assert len(module.variables) == len(module.named_variables()) == 12
    # Not named_two, and not the two moving averages.
    assert len(module.trainable_variables) == 9


def test_names_that_begin_with_an_underscore_do_not_belong_to_the_module(module: _Outer):
    assert not any(variable is module._hidden for variable in module.variables)


def test_a_shared_layer_counts_once(module: _Outer):
    module.again = module.layers[0]
    assert len(module.variables) == 12


def test_a_frozen_module_has_variables_but_trains_none(module: _Outer):
    module.inner.freeze()
    assert module.inner.trainable_variables == []
    assert len(module.inner.variables) == 2
    assert len(module.trainable_variables) == 7


def test_checkpoints_hold_every_variable(module: _Outer, tmp_path):
    path = tf.train.Checkpoint(model=module.trackable()).write(str(tmp_path / "checkpoint"))
    stored = [name for name, _ in tf.train.list_variables(path) if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert len(stored) == 12
    other = _Outer()
    tf.train.Checkpoint(model=other.trackable()).read(path).assert_existing_objects_matched()
    for mine, theirs in zip(module.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
