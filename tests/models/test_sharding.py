"""Item tables in shards: every row where it belongs, and every algorithm trains on them as on whole ones."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.algorithms.registry import ALGORITHMS
from models.frameworks import prepare, tf
from models.optimizers import LazyAdam
from models.sharding import copy_rows, is_sharded, rows_of, whole
from models.targets import copy_variables, follow

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

NUM_ITEMS = 97
"""N: tables have 98 rows, in shards of 25, 25, 24 and 24; nothing else of a batch has 96 to 98 of anything."""
NUM_SHARDS = 4
SESSIONS = [[1, 2, 3, 28], [5, 16, 7], [8, 9, 10], [11, 12], [13, 14]]


def of_parts(parts: list[Any]) -> Any:
    prepare()
    # The lazy module hides names with underscores.
    kind = getattr(import_module("tensorflow"), "__internal__").distribute.ShardedVariable  # noqa: B009
    return kind(parts)


def sharded(values: Any) -> Any:
    parts = [tf.Variable(part, name=f"table/part_{number}") for number, part in enumerate(np.array_split(values, NUM_SHARDS))]
    return of_parts(parts)


@contextmanager
def tables_in_shards() -> Iterator[None]:
    """What a strategy with parameter servers does to variables, in one process."""

    def create(next_creator: Any, **kwargs: Any) -> Any:
        shape = kwargs.get("shape")
        if shape is None or tf.TensorShape(shape).rank == 0 or tf.TensorShape(shape)[0] != NUM_ITEMS + 1:
            return next_creator(**kwargs)
        parts = np.array_split(kwargs["initial_value"]().numpy(), NUM_SHARDS)
        return of_parts(
            [
                next_creator(**{**kwargs, "initial_value": part, "shape": part.shape, "name": f"{kwargs['name']}/part_{number}"})
                for number, part in enumerate(parts)
            ]
        )

    with tf.variable_creator_scope(create):
        yield


def build(name: str) -> Any:
    networks = toy.network(softmax="sampled", tied=name != "bc", backbone=toy.backbone(dropout=0.0))
    algorithm = ALGORITHMS[name].create(toy.algorithm_config(name, dropout=0.0), networks, toy.catalogue(NUM_ITEMS), 0)
    algorithm.build()
    return algorithm


def batch() -> Any:
    return toy.batch(SESSIONS, reward=[[0.2] * (len(session) - 1) + [1.0] for session in SESSIONS])


# === Rows ===


def test_rows_are_those_of_the_whole_table() -> None:
    values = np.arange(30 * 3, dtype=np.float32).reshape(30, 3)
    table, ids = sharded(values), np.array([[0, 29, 7], [8, 16, 22], [23, 8, 8]])
    np.testing.assert_array_equal(rows_of(table, tf.constant(ids)), values[ids])
    np.testing.assert_array_equal(tf.function(lambda: rows_of(table, tf.constant(ids)))(), values[ids])
    np.testing.assert_array_equal(rows_of(tf.Variable(values), tf.constant(ids)), values[ids])


def test_gradients_name_the_rows_of_their_shard_alone() -> None:
    table = sharded(np.zeros((30, 2), np.float32))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(rows_of(table, tf.constant([9, 9, 29])) * [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    gradients = tape.gradient(total, table.variables)
    assert all(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    dense = np.concatenate([tf.convert_to_tensor(gradient).numpy() for gradient in gradients])
    expected = np.zeros((30, 2))
    expected[9], expected[29] = [4.0, 6.0], [5.0, 6.0]
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize("block_bytes", [1, 24, 1 << 20])
def test_tables_are_copied_into_and_out_of_shards(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr("models.sharding._BLOCK_BYTES", block_bytes)
    values = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    table, plain, other = sharded(np.zeros_like(values)), tf.Variable(np.zeros_like(values)), sharded(np.zeros_like(values))
    copy_rows(tf.Variable(values), table)
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in table.variables]), values)
    copy_rows(table, plain)
    np.testing.assert_array_equal(plain.numpy(), values)
    copy_rows(table, other)
    np.testing.assert_array_equal(other.numpy(), values)


def test_a_table_stands_once_for_its_shards() -> None:
    first, table, last = tf.Variable(1.0), sharded(np.zeros((30, 2), np.float32)), tf.Variable(2.0)
    found = whole([first, *table.variables, last])
    assert [id(variable) for variable in found] == [id(first), id(table), id(last)]


# === Models ===


def models(name: str) -> tuple[Any, Any]:
    """A model and the same one with its tables in shards."""
    toy.seed_everything()
    plain = toy.shake(build(name))
    with tables_in_shards():
        cut = build(name)
    assert [variable.shape for variable in cut.item_variables()] == [variable.shape for variable in plain.item_variables()]
    assert all(is_sharded(variable) for variable in cut.item_variables())
    copy_variables(plain, cut)
    return plain, cut


def _step(algorithm: Any, phase: Any) -> Any:
    variables = algorithm.variables_of(phase)

    @tf.function(autograph=False)
    def step(on: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = algorithm.losses_of(phase, on, tf.constant(3, tf.int64), training=True)
            total = tf.add_n([losses.mean(name) for name in losses.parts])
        return total, [gradient for gradient in tape.gradient(total, variables) if gradient is not None]

    return step


FEW = {"bc", "sqn"}
"""A table of its own beside the tied one, values and a target; the others take their time."""


def _is_wide(shape: Any) -> bool:
    """More than a number for every item; the sampler of negatives has two numbers for each."""
    if not shape.rank or not {NUM_ITEMS - 1, NUM_ITEMS, NUM_ITEMS + 1} & set(shape.as_list()):
        return False
    return shape.num_elements() is None or shape.num_elements() > NUM_ITEMS + 1


def test_a_step_over_the_whole_catalogue_would_be_noticed() -> None:
    """The control of the test below."""
    networks = toy.network(softmax="full", backbone=toy.backbone(dropout=0.0))
    algorithm = ALGORITHMS["bc"].create(toy.algorithm_config("bc"), networks, toy.catalogue(NUM_ITEMS), 0)
    algorithm.build()
    graph = _step(algorithm, algorithm.phases[0]).get_concrete_function(batch()).graph
    assert any(_is_wide(tensor.shape) for operation in graph.get_operations() for tensor in operation.outputs)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in sorted(ALGORITHMS)])
def test_an_algorithm_learns_the_same_from_shards_and_never_holds_a_row_for_every_item(name: str) -> None:
    plain, cut = models(name)
    for phase, far in zip(plain.phases, cut.phases, strict=True):
        expected, gradients = _step(plain, phase)(batch())
        step = _step(cut, far)
        found, parts = step(batch())
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
        squares = [sum(float(tf.reduce_sum(tf.convert_to_tensor(gradient) ** 2)) for gradient in side) for side in (gradients, parts)]
        assert squares[1] == pytest.approx(squares[0], rel=1e-4)
        assert squares[0] > 0
        graph = step.get_concrete_function(batch()).graph
        assert [tensor.name for operation in graph.get_operations() for tensor in operation.outputs if _is_wide(tensor.shape)] == []


def test_weights_in_shards_are_files_of_whole_ones(tmp_path: Any) -> None:
    from components.model_io import read_weights, write_weights

    plain, cut = models("sqn")
    assert list(cut.named_variables()) == list(plain.named_variables())
    write_weights(cut, tmp_path)
    toy.seed_everything(1)
    other = build("sqn")
    assert not np.allclose(other.encoder.embedding.table, plain.encoder.embedding.table)
    read_weights(other, tmp_path)
    for path, variable in plain.named_variables().items():
        np.testing.assert_array_equal(other.named_variables()[path], variable, err_msg=path)


def test_steps_and_target_networks_move_shards_as_they_move_tables(tmp_path: Any) -> None:
    plain, cut = models("sqn")
    optimizers = []
    for algorithm in (plain, cut):
        variables, optimizer = algorithm.trainable_variables, LazyAdam(0.01, global_clipnorm=0.5)
        optimizer.build(variables)
        for _ in range(3):
            with tf.GradientTape() as tape:
                losses = algorithm.losses(batch(), tf.constant(3, tf.int64), training=True)
                total = tf.add_n([losses.mean(name) for name in losses.parts])
            optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        follow(algorithm.online(), algorithm.target, 0.5)
        optimizers.append(optimizer)
    for path, variable in plain.named_variables().items():
        np.testing.assert_allclose(tf.convert_to_tensor(cut.named_variables()[path]), variable, atol=1e-5, err_msg=path)
    # Moments, too, are saved whole.
    written = tf.train.Checkpoint(optimizer=optimizers[1]).write(str(tmp_path / "moments"))
    fresh = LazyAdam(0.01)
    fresh.build(plain.trainable_variables)
    tf.train.Checkpoint(optimizer=fresh).read(written).assert_existing_objects_matched()
    assert len(fresh.variables) == len(optimizers[0].variables)
    for found, expected in zip(fresh.variables, optimizers[0].variables, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=expected.name)
    assert max(np.abs(variable.numpy()).max() for variable in fresh.variables[2:]) > 1e-3
    # And what one process wrote is read into shards.
    written = tf.train.Checkpoint(optimizer=optimizers[0]).write(str(tmp_path / "whole"))
    again = LazyAdam(0.01)
    again.build(cut.trainable_variables)
    tf.train.Checkpoint(optimizer=again).read(written).assert_existing_objects_matched()
    for found, expected in zip(again.variables, optimizers[0].variables, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(found), expected, err_msg=expected.name)
