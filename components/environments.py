"""Simulators from their configurations, with what they need from files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from models.simulators.base import Simulator, SimulatorConfig
from models.simulators.registry import SIMULATORS
from models.simulators.virtual_taobao import WIDTHS, VirtualTaobao, VirtualTaobaoConfig, VirtualTaobaoWeights


class EnvironmentFileError(ValueError):
    """A file that a simulator needs cannot be used; the message names file, found and expected."""


def create_simulator(config: SimulatorConfig) -> Simulator:
    """The simulator of a configuration.

    Raises:
        EnvironmentFileError: A file that it needs is missing or is something else.
    """
    if isinstance(config, VirtualTaobaoConfig):
        return VirtualTaobao(config, read_weights(Path(config.weights)))
    kind: Any = SIMULATORS[str(getattr(config, "name"))]  # noqa: B009  (every subclass has a literal `name`)
    simulator: Simulator = kind(config)
    return simulator


def read_weights(folder: Path) -> VirtualTaobaoWeights:
    """Reads the weights of Virtual Taobao.

    Args:
        folder: Holds `generator_model.npz`, `action_model.npz` and `leave_model.npz`, each with arrays `0.weight` [out, in], `0.bias`
            [out], `2.weight` and so on.

    Raises:
        EnvironmentFileError: A file is missing or unreadable, or a layer or shape is another.
    """
    missing = [name for name in WIDTHS if not (folder / f"{name}.npz").is_file()]
    if missing:
        files = ", ".join(f"{name}.npz" for name in missing)
        raise EnvironmentFileError(
            f"{folder}: the weights of Virtual Taobao are not complete, there is no {files}; set `weights` to their folder"
        )
    try:
        return VirtualTaobaoWeights.from_arrays({name: _read_arrays(folder / f"{name}.npz") for name in WIDTHS})
    except EnvironmentFileError:
        raise
    except ValueError as error:
        raise EnvironmentFileError(f"{folder}: {error}") from None


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        # A plain .npy file has no names, and a pickled array would run code.
        raise EnvironmentFileError(f"{path}: not an npz file of plain arrays: {error}") from None
