"""Target networks that follow their originals slowly."""

from __future__ import annotations

from models.frameworks import tf
from models.module import Module
from models.sharding import beside, copy_rows, whole


def copy_variables(source: Module, target: Module) -> None:
    """Sets every variable of `target` to that of `source`; the two are built alike, with tables in shards or not."""
    for original, copy in zip(whole(source.variables), whole(target.variables), strict=True):
        copy_rows(original, copy)


def follow(source: Module, target: Module, rate: tf.Tensor | float) -> None:
    """Moves every variable of `target` towards `source` by a share `rate` (Polyak and Juditsky, 1992)."""
    for original, copy in _pairs(source, target):
        with beside(copy):
            copy.assign_add(tf.cast(rate, copy.dtype) * (original - copy))


def _pairs(source: Module, target: Module) -> list[tuple[tf.Variable, tf.Variable]]:
    return list(zip(source.variables, target.variables, strict=True))
