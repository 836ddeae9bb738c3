"""Engines that Beam runs on: the options they get are options that Beam knows, and workers find every function by its name."""

import importlib
import inspect
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from components.beam_runner import pipeline_options, runs_locally
from pipeline.beam import BeamConfig
from schemas.config import ConfigError, decode

ROOT = Path(__file__).resolve().parents[2]
CLOUD = {"name": "dataflow", "project": "shop", "region": "europe-west4", "temp_location": "gs://shop/tmp"}


def options(**plain: Any) -> Any:
    return pipeline_options(decode(BeamConfig, plain, "test").arguments())


def test_beam_runs_here_unless_told_otherwise() -> None:
    found = options()
    assert found.view_as(StandardOptions).runner == "FnApiRunner"
    assert runs_locally(found)
    assert options(runner="DirectRunner", args=["--runner=BundleBasedDirectRunner"]).view_as(StandardOptions).runner == (
        "BundleBasedDirectRunner"
    )


@pytest.mark.parametrize("name", ["flink", "spark"])
def test_engines_behind_a_job_server_use_workers_that_are_there(name: str) -> None:
    found = options(engine={"name": name, "job_endpoint": "jobs:8099", "worker_pool": "localhost:50001"})
    assert found.view_as(StandardOptions).runner == "PortableRunner"
    portable = found.view_as(PortableOptions)
    assert portable.job_endpoint == "jobs:8099"
    # Nothing is staged, fetched or installed: workers are started by whoever runs the engine.
    assert (portable.environment_type, portable.environment_config) == ("EXTERNAL", "localhost:50001")
    assert not runs_locally(found)


def test_flink_is_told_how_many_parts_run_at_the_same_time() -> None:
    found = options(engine={"name": "flink", "parallelism": 8}, args=["--max_parallelism=16"])
    flink = found.view_as(FlinkRunnerOptions)
    assert (flink.parallelism, flink.max_parallelism) == (8, 16)


def test_dataflow_ships_our_packages() -> None:
    found = options(engine=CLOUD)
    assert found.view_as(StandardOptions).runner == "DataflowRunner"
    cloud = found.view_as(GoogleCloudOptions)
    assert (cloud.project, cloud.region, cloud.temp_location) == ("shop", "europe-west4", "gs://shop/tmp")
    assert found.view_as(SetupOptions).setup_file == str(ROOT / "setup.py")
    in_image = options(engine={**CLOUD, "sdk_container_image": "registry.example/beam:1", "max_num_workers": 4})
    assert in_image.view_as(SetupOptions).setup_file is None
    worker = in_image.view_as(WorkerOptions)
    assert (worker.sdk_container_image, worker.max_num_workers) == ("registry.example/beam:1", 4)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"engine": {"name": "storm"}}, "engine.name: unknown name 'storm'; known: flink, spark, dataflow"),
        ({"engine": {"name": "flink", "job_endpoint": "http://jobs:8099"}}, "engine.job_endpoint: string should match pattern"),
        ({"engine": {"name": "dataflow", "project": "shop"}}, "engine.region: required, but not given"),
        ({"engine": {**CLOUD, "sdk_container_image": "a", "setup_file": "b"}}, "both say where workers take our packages from"),
        ({"engine": {"name": "flink"}, "runner": "FlinkRunner"}, "runner is FlinkRunner and engine is flink; give one of them"),
    ],
)
def test_what_does_not_fit_together_is_refused(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode(BeamConfig, plain, "test")
    assert message in str(refused.value)


def test_workers_find_every_function_by_its_name() -> None:
    """A class or function that is found by module and name is pickled as the two; one of a function's own would carry its code."""
    found = []
    for path in sorted((ROOT / "components").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "beam.DoFn" not in text and "beam.CombineFn" not in text:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, (beam.DoFn, beam.CombineFn)) and kind.__module__ == module.__name__:
                assert kind.__qualname__ == name
                found.append(name)
        assert text.count("beam.DoFn)") + text.count("beam.CombineFn)") == sum(
            kind.__module__ == module.__name__ and issubclass(kind, (beam.DoFn, beam.CombineFn))
            for _, kind in inspect.getmembers(module, inspect.isclass)
        ), f"{path}: a class is not at the top of the module"
        assert "__main__" not in text
    assert {"ReadAndPartition", "BuildSessions", "WriteRecords"} <= set(found)


def test_the_job_server_is_for_the_flink_beside_it() -> None:
    """One job server speaks to the Flink of one minor version, and to Python of its own version of Beam or a later one."""
    space = {"pom": "http://maven.apache.org/POM/4.0.0"}
    folder = ROOT / "kubeflow" / "flink"
    flink, server = (ElementTree.parse(path).getroot() for path in (folder / "pom.xml", folder / "job-server" / "pom.xml"))
    minor = server.findtext("pom:properties/pom:flink.minor", namespaces=space)
    assert str(flink.findtext("pom:properties/pom:flink.version", namespaces=space)).rpartition(".")[0] == minor
    version = str(server.findtext("pom:properties/pom:beam.version", namespaces=space))
    assert [int(part) for part in version.split(".")] <= [int(part) for part in beam.__version__.split(".")]
    text = (ROOT / "docs" / "KUBEFLOW.md").read_text(encoding="utf-8")
    assert f"job server of {version} with Flink {minor}" in text
