"""Adam that touches only the rows of an embedding that the batch used."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf


class LazyAdam(keras.optimizers.Adam):
    """Adam whose moments of sparse gradients decay only in the rows that have one.

    Keras' own Adam decays and writes the moments of all rows at every step, which for a large catalogue takes longer than the
    model. A row that is not in the batch keeps its moments here, and its step is as large as ever when it comes back. Dense
    gradients are treated as Keras treats them.

    References:
        Kingma and Ba (2015); the lazy form is common for embeddings, e.g. TensorFlow Addons' LazyAdam.
    """

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        # Keras clips first and sums repeated rows afterwards, so a batch with many events of an item would not be clipped to
        # the stated length.
        return list(super()._clip_gradients(super()._deduplicate_sparse_grad(grads)))

    def _deduplicate_sparse_grad(self, grads: list[Any]) -> list[Any]:
        return grads

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """One step for one variable; sparse gradients have distinct rows by now."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        rows, values = gradient.indices, tf.cast(gradient.values, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype)
        step = tf.cast(self.iterations + 1, variable.dtype)
        index = self._index_dict[self._var_key(variable)]
        first, second = self._momentums[index], self._velocities[index]
        new_first = self.beta_1 * tf.gather(first, rows) + (1.0 - self.beta_1) * values
        new_second = self.beta_2 * tf.gather(second, rows) + (1.0 - self.beta_2) * tf.square(values)
        first.scatter_update(tf.IndexedSlices(new_first, rows))
        second.scatter_update(tf.IndexedSlices(new_second, rows))
        corrected = rate * tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        variable.scatter_sub(tf.IndexedSlices(corrected * new_first / (tf.sqrt(new_second) + self.epsilon), rows))
