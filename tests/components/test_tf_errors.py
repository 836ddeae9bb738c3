"""Which line of an error is told."""

import pytest

from components.tf_errors import telling_line
from models.frameworks import tf

FOUND_WITHIN_A_FUNCTION = """Graph execution error:

Detected at node 'a/b' defined at (most recent call last):
  File "train.py", line 3, in step
<stack traces unavailable>
Collective ops is aborted by: peer is gone.
\t [[{{node a/b}}]]
Original stack trace for 'a/b':
"""


def test_places_in_the_graph_are_passed_over():
    assert telling_line(RuntimeError(FOUND_WITHIN_A_FUNCTION)) == "Collective ops is aborted by: peer is gone."
    assert telling_line(RuntimeError("[[{{node a/b}}]]\nno such file")) == "no such file"


def test_an_error_of_the_runtime_says_what_is_wrong():
    @tf.function(autograph=False)
    def ask(value: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(value, [3])

    with pytest.raises(tf.errors.InvalidArgumentError) as found:
        ask.get_concrete_function(tf.TensorSpec(None))(tf.zeros([2]))
    assert telling_line(found.value) == "Shape of tensor value [2] is not compatible with expected shape [3]."


def test_without_a_telling_line_there_is_what_there_is():
    assert telling_line(RuntimeError("\nFile x\n")) == "File x"
    assert telling_line(RuntimeError()) == ""
    assert telling_line(RuntimeError("x" * 1000)) == "x" * 500
