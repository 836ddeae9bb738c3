"""TensorFlow and Keras, imported when they are first used and always in the one combination that works.

`from models.frameworks import keras, tf` costs nothing; the first attribute that is read imports the framework. So a module
that defines configurations beside code that computes stays light to import, and a command line can describe every algorithm
without waiting for TensorFlow.

Keras means Keras 2 (`tf_keras`), which TensorFlow Recommenders and TF-Agents need. `TF_USE_LEGACY_KERAS=1` makes
`tf.keras` the same; it is set here and nowhere else.
"""

from __future__ import annotations

import importlib
import os
import types
from typing import TYPE_CHECKING, Any

_VARIABLE = "TF_USE_LEGACY_KERAS"


class FrameworkError(RuntimeError):
    """The installed or imported frameworks do not fit together."""


def prepare() -> None:
    """Sets what must be set before TensorFlow is imported; imports nothing.

    Raises:
        FrameworkError: The environment asks for Keras 3.
    """
    found = os.environ.setdefault(_VARIABLE, "1")
    if found.lower() not in ("1", "true"):
        raise FrameworkError(
            f"{_VARIABLE} is {found!r}; longplay, TensorFlow Recommenders and TF-Agents need Keras 2: set it to 1 or unset it"
        )


def _load(name: str) -> types.ModuleType:
    prepare()
    module = importlib.import_module(name)
    if name == "tensorflow":
        origin = module.keras.layers.Layer.__module__
        if not origin.startswith("tf_keras."):
            raise FrameworkError(
                f"tf.keras comes from {origin}, expected tf_keras: another module read tf.keras before {_VARIABLE} was set; "
                "import models.frameworks first"
            )
    return module


class _LazyModule(types.ModuleType):
    def __init__(self, name: str):
        super().__init__(name)
        self._target = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            # Tools that look a module over (inspect, doctest) must not set off the import.
            raise AttributeError(attribute)
        value = getattr(_load(self._target), attribute)
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras
else:
    tf = _LazyModule("tensorflow")
    keras = _LazyModule("tf_keras")

__all__ = ["FrameworkError", "keras", "prepare", "tf"]
