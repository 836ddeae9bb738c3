"""Weights read from files, and files that are something else."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.environments import EnvironmentFileError, create_simulator, read_weights
from models.simulators.registry import SIMULATORS
from models.simulators.stitching import Stitching, StitchingConfig
from models.simulators.virtual_taobao import WIDTHS, VirtualTaobao, VirtualTaobaoConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of weights that nobody learned."""
    rng = np.random.default_rng(0)
    for name, widths in WIDTHS.items():
        layers: dict[str, Any] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            layers[f"{2 * layer}.weight"] = rng.normal(size=(outputs, inputs)).astype(np.float32)
            layers[f"{2 * layer}.bias"] = rng.normal(size=outputs).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", **layers)
    return tmp_path


def rewrite(folder: Path, name: str, **changes: np.ndarray | None) -> None:
    with np.load(folder / f"{name}.npz") as found:
        layers = {**found, **{key.replace("_", "."): value for key, value in changes.items()}}
    np.savez(folder / f"{name}.npz", **{key: value for key, value in layers.items() if value is not None})


def test_the_weights_are_those_of_the_files(folder: Path) -> None:
    weights = read_weights(folder)
    with np.load(folder / "action_model.npz") as found:
        np.testing.assert_array_equal(weights.action[1].weight, found["2.weight"])
        np.testing.assert_array_equal(weights.action[2].bias, found["4.bias"])
    with np.load(folder / "generator_model.npz") as found:
        np.testing.assert_array_equal(weights.generator[0].weight, found["0.weight"])


def test_a_configuration_makes_its_simulator(folder: Path) -> None:
    simulator = create_simulator(VirtualTaobaoConfig(weights=str(folder), temperature=3.0))
    assert isinstance(simulator, VirtualTaobao)
    assert simulator.config.temperature == 3.0
    stitching = create_simulator(StitchingConfig(num_actions=7))
    assert isinstance(stitching, Stitching)
    assert stitching.config.num_actions == 7


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_simulator_can_be_made_of_its_configuration(name: str, folder: Path) -> None:
    kind = SIMULATORS[name].config_class
    needed = {"weights": str(folder)} if "weights" in kind.model_fields else {}
    assert type(create_simulator(kind(**needed))) is SIMULATORS[name]


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "leave_model.npz").unlink()
    with pytest.raises(EnvironmentFileError, match=r"there is no leave_model\.npz; set `weights`") as caught:
        read_weights(folder)
    assert str(folder) in str(caught.value)
    with pytest.raises(EnvironmentFileError, match=r"generator_model\.npz, action_model\.npz, leave_model\.npz"):
        read_weights(folder / "elsewhere")


def test_other_layers_and_shapes_are_named(folder: Path) -> None:
    rewrite(folder, "action_model", **{"4_weight": np.zeros((20, 256), np.float32)})
    with pytest.raises(
        EnvironmentFileError, match=r"action_model: 4\.weight: expected floats of shape \[21, 256\], found float32 of \[20, 256\]"
    ):
        read_weights(folder)
    rewrite(folder, "action_model", **{"4_weight": None, "6_weight": np.zeros((21, 256), np.float32)})
    with pytest.raises(EnvironmentFileError, match=r"action_model: expected the layers .*4\.weight; found .*6\.weight"):
        read_weights(folder)


class Harmful:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickled_arrays_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.savez(folder / "action_model.npz", **{"0.weight": np.array([Harmful(mark)], dtype=object)})
    with pytest.raises(EnvironmentFileError, match=r"action_model\.npz: not an npz file of plain arrays"):
        read_weights(folder)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04broken"], ids=["empty", "text", "broken archive"])
def test_what_is_no_archive_is_named(folder: Path, content: bytes) -> None:
    (folder / "generator_model.npz").write_bytes(content)
    with pytest.raises(EnvironmentFileError, match=r"generator_model\.npz: not an npz file of plain arrays"):
        read_weights(folder)


def test_a_cut_or_unnamed_file_is_named(folder: Path) -> None:
    path = folder / "generator_model.npz"
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(EnvironmentFileError, match=r"generator_model\.npz: not an npz file of plain arrays"):
        read_weights(folder)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(EnvironmentFileError, match=r"generator_model\.npz: not an npz file of plain arrays"):
        read_weights(folder)


def test_damaged_content_is_named(folder: Path) -> None:
    path = folder / "leave_model.npz"
    content = bytearray(path.read_bytes())
    content[2_000] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(EnvironmentFileError, match=r"leave_model\.npz: not an npz file of plain arrays"):
        read_weights(folder)
