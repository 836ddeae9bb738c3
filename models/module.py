"""A plain container of Keras layers whose variables are found by attribute.

Backbones and algorithms are such containers, so that their files can be imported without TensorFlow and hold the
configuration beside the code. The layers inside are ordinary Keras layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.frameworks import tf
from models.sharding import whole


class Module:
    """Base of everything that owns layers.

    Layers, variables and other modules that are attributes, or in lists, tuples or dicts that are attributes, belong to the
    module. Names that begin with an underscore do not.
    """

    def children(self) -> Iterator[tuple[str, Any]]:
        """(path, layer, variable or module) of everything directly owned, in the order of assignment."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from _owned(name, value)

    def named_variables(self, prefix: str = "") -> dict[str, tf.Variable]:
        """All variables by a path that depends on attributes alone, so it is the same in every process.

        A table in shards is one variable here; `variables` has its shards.
        """
        named: dict[str, tf.Variable] = {}
        for path, child in self.children():
            here = f"{prefix}{path}"
            if isinstance(child, Module):
                named.update(child.named_variables(f"{here}/"))
            else:
                variables = whole(_variables(child, "variables"))
                named.update({f"{here}/{number}": variable for number, variable in enumerate(variables)})
        return named

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables, each once."""
        return _unique(variable for _, child in self.children() for variable in _variables(child, "variables"))

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """Variables that gradients move, each once."""
        return _unique(variable for _, child in self.children() for variable in _variables(child, "trainable_variables"))

    def layers(self) -> Iterator[Any]:
        """Every Keras layer of the tree, the ones inside other layers included."""
        for _, child in self.children():
            if isinstance(child, Module):
                yield from child.layers()
            elif hasattr(child, "submodules"):
                yield from (child, *child.submodules)

    def item_variables(self) -> list[tf.Variable]:
        """Variables with one row for every id: padding, items, the unknown item. Layers name theirs in `item_weights`."""
        return [getattr(layer, name) for layer in self.layers() for name in getattr(layer, "item_weights", ())]

    def data_variables(self) -> list[tf.Variable]:
        """Variables that hold data of the vocabulary and are not learned. Layers name theirs in `data_weights`."""
        return [getattr(layer, name) for layer in self.layers() for name in getattr(layer, "data_weights", ())]

    def random_generators(self) -> list[Any]:
        """Generators of the layers that draw; Keras keeps them out of checkpoints."""
        found = []
        for layer in self.layers():
            random = getattr(layer, "_random_generator", None)
            if random is not None:
                random._maybe_init()  # otherwise it has no generator before its first draw
                found.append(random._generator)
        return found

    def freeze(self) -> None:
        """Takes every layer out of the trainable variables, as a target network is."""
        for _, child in self.children():
            if isinstance(child, Module):
                child.freeze()
            else:
                child.trainable = False

    def trackable(self) -> tf.Module:
        """The same tree as TensorFlow's checkpoints and SavedModels track it."""
        holder = tf.Module()
        for path, child in self.children():
            setattr(holder, path, child.trackable() if isinstance(child, Module) else child)
        return holder


def _owned(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _owned(f"{path}_{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _owned(f"{path}_{key}", item)
    elif isinstance(value, Module) or (_is_tensorflow(value) and isinstance(value, (tf.Module, tf.Variable))):
        yield path, value


def _is_tensorflow(value: Any) -> bool:
    # Looked at by name first, so that a module of plain values never imports TensorFlow.
    return any(base.__module__.startswith(("tensorflow", "tf_keras")) for base in type(value).__mro__)


def _variables(child: Any, kind: str) -> list[Any]:
    if not hasattr(child, kind):  # a bare variable
        return [child] if kind == "variables" or child.trainable else []
    found: list[Any] = list(getattr(child, kind))
    return found


def _unique(variables: Iterator[Any]) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())
