"""Lazy Adam against Keras' own."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.optimizers import LazyAdam

ROWS, WIDTH = 6, 3


def _variable(seed: int = 0) -> tf.Variable:
    return tf.Variable(np.random.default_rng(seed).normal(size=(ROWS, WIDTH)).astype(np.float32))


def _slices(rows: list[int], values: np.ndarray) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), tf.constant([ROWS, WIDTH]))


def _apply(optimizer: keras.optimizers.Optimizer, variable: tf.Variable, gradients: list) -> np.ndarray:
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, variable)])
    return variable.numpy()


def _gradients(steps: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, ROWS, WIDTH)).astype(np.float32)


def test_it_is_adam_when_every_row_is_in_every_batch():
    values = _gradients(20)
    order = list(range(ROWS))[::-1]
    lazy = _apply(LazyAdam(0.05), _variable(), [_slices(order, value[order]) for value in values])
    plain = _apply(keras.optimizers.Adam(0.05), _variable(), [tf.constant(value) for value in values])
    assert lazy == pytest.approx(plain, abs=1e-6)


def test_dense_gradients_are_those_of_adam():
    values = _gradients(10)
    lazy = _apply(LazyAdam(0.05, beta_1=0.8), _variable(), [tf.constant(value) for value in values])
    plain = _apply(keras.optimizers.Adam(0.05, beta_1=0.8), _variable(), [tf.constant(value) for value in values])
    assert lazy.tolist() == plain.tolist()


def test_rows_that_are_not_in_the_batch_do_not_move():
    # Keras' Adam moves row 2 on in the second step by its momentum.
    first, second = _gradients(2)
    variable, optimizer = _variable(), LazyAdam(0.05)
    after_first = _apply(optimizer, variable, [_slices([0, 2], first[[0, 2]])])
    after_second = _apply(optimizer, variable, [_slices([0, 5], second[[0, 5]])])
    assert after_first[[1, 3, 4, 5]].tolist() == _variable().numpy()[[1, 3, 4, 5]].tolist()
    assert after_second[[1, 2, 3, 4]].tolist() == after_first[[1, 2, 3, 4]].tolist()
    assert (after_second[[0, 5]] != after_first[[0, 5]]).all()


def test_a_row_keeps_its_moments_while_it_is_away():
    # Row 0 in steps 1 and 3; its moments are those of two steps, and the bias correction counts all three:
    # m = .9 * .1 g1 + .1 g3, v = .999 * .001 g1^2 + .001 g3^2, rate * sqrt(1 - .999^3) / (1 - .9^3)
    g1, g3, rate, epsilon = 2.0, -1.0, 0.05, 1e-7
    one = np.full((1, WIDTH), 1.0)
    variable, optimizer = _variable(), LazyAdam(rate)
    start = _apply(optimizer, variable, [_slices([0], g1 * one), _slices([1], one)])[0]
    moved = _apply(optimizer, variable, [_slices([0], g3 * one)])[0]
    m = 0.9 * 0.1 * g1 + 0.1 * g3
    v = 0.999 * 0.001 * g1**2 + 0.001 * g3**2
    step = rate * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * m / (np.sqrt(v) + epsilon)
    assert start - moved == pytest.approx(np.full(WIDTH, step), abs=1e-6)


def test_a_row_that_occurs_twice_gets_the_sum_of_its_gradients():
    value = _gradients(3)
    twice, once = _variable(), _variable()
    optimizers = LazyAdam(0.05), LazyAdam(0.05)
    for v in value:
        _apply(optimizers[0], twice, [_slices([1, 4, 1], v[[0, 1, 2]])])
        _apply(optimizers[1], once, [_slices([1, 4], np.stack([v[0] + v[2], v[1]]))])
    assert twice.numpy() == pytest.approx(once.numpy(), abs=1e-6)


def test_compiled_and_eager_steps_are_the_same():
    values = _gradients(5)
    eager = _apply(LazyAdam(0.05), _variable(), [_slices([0, 3, 3], value[:3]) for value in values])
    variable, optimizer = _variable(), LazyAdam(0.05, jit_compile=False)
    optimizer.build([variable])

    @tf.function
    def step(value: tf.Tensor) -> None:
        optimizer.apply_gradients([(_slices_of(value), variable)])

    def _slices_of(value: tf.Tensor) -> tf.IndexedSlices:
        return tf.IndexedSlices(value, tf.constant([0, 3, 3]), tf.constant([ROWS, WIDTH]))

    for value in values:
        step(tf.constant(value[:3]))
    assert variable.numpy() == pytest.approx(eager, abs=1e-6)


def test_a_schedule_of_the_learning_rate_is_followed():
    # The first step of Adam is as long as the rate, whatever the gradient.
    for rates in ((0.1, 0.2, 0.3),):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], list(rates))
        variable, optimizer = _variable(), LazyAdam(schedule)
        before = variable.numpy()
        for row, rate in enumerate(rates):
            _apply(optimizer, variable, [_slices([row], np.ones((1, WIDTH)))])
            # A row that is new at step t: m / sqrt(v) = .1 / sqrt(.001), times sqrt(1 - .999^t) / (1 - .9^t).
            t = row + 1
            expected = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * 0.1 / np.sqrt(0.001)
            assert before[row] - variable.numpy()[row] == pytest.approx(np.full(WIDTH, expected), rel=1e-4)


def _first_moments(optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    """The gradient that was applied in the first step: the first moment is a tenth of it."""
    moments = [variable for variable in optimizer.variables if "/m/" in variable.name or variable.name.endswith("/m:0")]
    return np.concatenate([moment.numpy().ravel() for moment in moments]) * 10.0


def test_a_long_gradient_is_clipped_to_the_stated_length():
    variable, dense = _variable(), _variable(1)
    optimizer = LazyAdam(0.05, global_clipnorm=1.0)
    optimizer.apply_gradients([(_slices([0, 2], 5.0 * np.ones((2, WIDTH))), variable), (tf.ones([ROWS, WIDTH]), dense)])
    assert np.linalg.norm(_first_moments(optimizer)) == pytest.approx(1.0, rel=1e-4)


def test_a_gradient_of_repeated_rows_is_clipped_to_the_stated_length():
    # A popular item occurs many times in a batch; its gradient is the sum of all of them.
    variable = _variable()
    optimizer = LazyAdam(0.05, global_clipnorm=1.0)
    optimizer.apply_gradients([(_slices([2] * 100, np.ones((100, WIDTH))), variable)])
    assert np.linalg.norm(_first_moments(optimizer)) == pytest.approx(1.0, rel=1e-4)
