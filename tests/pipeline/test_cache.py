"""Cache keys: what a step's result depends on, and nothing else."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact
from components.base import Component, Port
from components.registry import COMPONENTS
from components.trainer.config import TrainerConfig
from components.trajectory_gen.config import TrajectoryGenConfig
from pipeline import cache
from pipeline.cache import cache_key, code_digest
from schemas.config import Config, decode


class StepConfig(Config):
    size: int = 1
    label: str = "x"


STEP = Component(
    name="step",
    description="A step of a test.",
    config=StepConfig,
    inputs={"left": Port("Examples", ""), "right": Port("Examples", "", optional=True)},
    outputs={"out": Port("Examples", "")},
)


def artifact(digest: str, path: str = "a") -> Artifact:
    return Artifact(Path(path), {"digest": digest, "type": "Examples", "properties": {}, "files": {}})


@pytest.fixture(autouse=True)
def fresh_digests() -> Iterator[None]:
    """Digests of code are kept for the life of a process; sources change here."""
    code_digest.cache_clear()
    yield
    code_digest.cache_clear()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a small repository in which the digests look for code: path to source."""
    monkeypatch.setattr(cache, "_ROOT", tmp_path)

    def write(modules: dict[str, str]) -> None:
        for name, source in modules.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
            path.write_text(source)
        code_digest.cache_clear()

    write(
        {
            "components/step/executor": "from components import io\nfrom models.near import value\nimport numpy\n",
            "components/io": "import schemas.far\n",
            "models/near": "def f():\n    from models import inner\n",
            "models/inner": "",
            "schemas/far": "X = 1\n",
            "schemas/other": "X = 1\n",
        }
    )
    return write


def key(config: StepConfig = StepConfig(), component: Component = STEP, **inputs: Artifact) -> str:
    return cache_key(component, config, inputs or {"left": artifact("1")})


def test_a_key_is_the_same_for_the_same_things(sources: Callable[..., None]) -> None:
    assert key() == key(StepConfig(size=1))
    assert len(key()) == 64


def test_a_key_changes_with_the_configuration(sources: Callable[..., None]) -> None:
    assert len({key(), key(StepConfig(size=2)), key(StepConfig(label="y"))}) == 3


def test_a_key_changes_with_the_content_of_an_input_and_not_with_its_place(sources: Callable[..., None]) -> None:
    assert key(left=artifact("1", "here")) == key(left=artifact("1", "there"))
    both = key(left=artifact("1"), right=artifact("2"))
    assert len({key(), key(left=artifact("2")), both, key(left=artifact("2"), right=artifact("1"))}) == 4


def test_a_key_changes_with_the_step_and_the_versions_of_libraries(sources: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    assert key(component=replace(STEP, name="other")) != before
    monkeypatch.setattr(cache, "_library_versions", lambda: {"tensorflow": "9.9"})
    assert key() != before


def test_a_key_changes_with_the_state_of_the_world_outside(sources: Callable[..., None]) -> None:
    world = {"files": [["log.csv", 10, 1.0]]}
    watching = replace(STEP, external_state=lambda config: world)
    before = key(component=watching)
    assert key(component=watching) == before
    world["files"] = [["log.csv", 10, 2.0]]
    assert key(component=watching) != before


@pytest.mark.parametrize(
    "module",
    [
        "components/step/executor",
        "components/io",  # imported as `from package import module`
        "models/near",
        "models/inner",  # imported inside a function
        "schemas/far",  # imported by what is imported
        "components/__init__",  # a module runs its package first
        "components/step/__init__",
    ],
)
def test_a_key_changes_with_the_code_of_every_module_that_the_step_imports(sources: Callable[..., None], module: str) -> None:
    before = key()
    sources({module: "from components import io\nfrom models.near import value\nY = 2\n"})
    assert key() != before


def test_a_key_does_not_change_with_code_that_the_step_does_not_import(sources: Callable[..., None]) -> None:
    before = key()
    sources({"schemas/other": "X = 2\n", "components/another/executor": "X = 2\n"})
    assert key() == before


def test_a_new_import_counts_at_once(sources: Callable[..., None]) -> None:
    sources({"models/near": "import schemas.other\n"})
    before = key()
    sources({"schemas/other": "X = 3\n"})
    assert key() != before


def test_modules_that_import_each_other_have_a_digest(sources: Callable[..., None]) -> None:
    sources({"models/near": "import schemas.far\n", "schemas/far": "import models.near\n"})
    assert len(key()) == 64


def test_a_relative_import_counts(sources: Callable[..., None]) -> None:
    sources({"components/step/executor": "from . import helper\n", "components/step/helper": "X = 1\n"})
    before = key()
    sources({"components/step/helper": "X = 2\n"})
    assert key() != before


def test_every_executor_depends_on_its_configuration_and_on_the_base_of_all() -> None:
    for name, component in COMPONENTS.items():
        assert cache._source(component.executor_module) is not None
        reached: set[str] = set()
        waiting = [component.executor_module]
        while waiting:
            module = waiting.pop()
            path = cache._source(module)
            if path is not None and module not in reached:
                reached.add(module)
                waiting += cache._imports(path.read_bytes(), str(path))
        assert {f"components.{name}.config", "schemas.config", "components.base"} <= reached


# === Real components ===


def test_the_key_of_ingestion_changes_when_a_log_file_does(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\na,x,1\n")
    dataset = {
        "name": "delimited",
        "path": str(log),
        "columns": {"user": "user", "item": "item", "timestamp": "time"},
        "feedback": {"click": {"role": "click", "reward": 1}},
    }
    config = decode(TrajectoryGenConfig, {"dataset": dataset}, "test")
    before = cache_key(COMPONENTS["trajectory_gen"], config, {})
    assert cache_key(COMPONENTS["trajectory_gen"], config, {}) == before
    log.write_text("user,item,time\na,x,1\nb,y,2\n")
    assert cache_key(COMPONENTS["trajectory_gen"], config, {}) != before


def test_how_beam_runs_is_part_of_no_key() -> None:
    # The options are not in any component's configuration, which is all of the run that a key sees.
    for component in COMPONENTS.values():
        assert "beam" not in component.config.model_fields


def test_the_key_of_the_schema_changes_when_the_curated_file_does(tmp_path: Path) -> None:
    path = tmp_path / "own.pbtxt"
    path.write_text('feature { name: "item_id" }')
    component = COMPONENTS["schema_gen"]
    config = component.config(curated_schema=str(path))  # type: ignore[call-arg]
    before = cache_key(component, config, {})
    path.write_text('feature { name: "item_id" type: INT }')
    assert cache_key(component, config, {}) != before


def test_the_key_of_the_schema_changes_when_the_committed_one_does(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("schemas", "components", "models"):
        shutil.copytree(repository / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "_ROOT", tmp_path)
    component = COMPONENTS["schema_gen"]
    before = cache_key(component, component.config(), {})
    path = tmp_path / "schemas" / "trajectory.pbtxt"
    path.write_text(path.read_text().replace("threshold: 0.2", "threshold: 0.1"))
    code_digest.cache_clear()
    assert cache_key(component, component.config(), {}) != before


def test_the_key_of_the_trainer_changes_with_the_model_it_starts_from(tmp_path: Path) -> None:
    def manifest(digest: str) -> Any:
        return f'{{"type": "Model", "digest": "{digest}", "properties": {{}}, "files": {{}}}}'

    (tmp_path / "manifest.json").write_text(manifest("1"))
    config = TrainerConfig(warm_start_from=str(tmp_path))
    before = cache_key(COMPONENTS["trainer"], config, {})
    (tmp_path / "manifest.json").write_text(manifest("2"))
    assert cache_key(COMPONENTS["trainer"], config, {}) != before
