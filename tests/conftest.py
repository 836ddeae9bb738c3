"""What all tests share. Nothing heavy is imported here: a test that needs a framework imports it itself."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from models import frameworks

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
frameworks.prepare()

# The same examples in every run, so that the gate is green or red for everybody.
hypothesis.settings.register_profile("longplay", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("longplay")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data sets, `LONGPLAY_DATA`; skips where there is none."""
    folder = Path(os.environ.get("LONGPLAY_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set LONGPLAY_DATA")
    return folder


@pytest.fixture(scope="session")
def update_golden() -> bool:
    """True when goldens are to be written instead of compared."""
    return os.environ.get("LONGPLAY_UPDATE_GOLDEN") == "1"


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Loads a script by its path below the repository: its folder is no package, and must not be one."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def eagerly() -> Iterator[None]:
    """TensorFlow's functions op by op: a few steps take less time than compiling them."""
    from models.frameworks import tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
