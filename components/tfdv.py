"""TensorFlow Data Validation, without the advice about notebooks that it prints when it is imported."""

import contextlib
import io

with contextlib.redirect_stderr(io.StringIO()):
    import tensorflow_data_validation as tfdv

__all__ = ["tfdv"]
