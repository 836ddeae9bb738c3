"""Where Apache Beam runs: in this process, or on an engine that spreads the work over machines."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from schemas.config import Config

Address = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?:[0-9]{1,5}$")]
"""Host and port, such as flink-job-server:8099."""

_WAIT_SECONDS = 120


class _JobServerConfig(Config):
    """What engines behind a Beam job server share."""

    job_endpoint: Address = "localhost:8099"
    """Beam's job server for the engine, in the version of the installed Beam."""
    worker_pool: Address = "localhost:50000"
    """Where each machine of the engine finds its Python workers: `python -m apache_beam.runners.worker.worker_pool_main
    --service_port=50000` in longplay's image, beside each task manager or executor."""

    def arguments(self) -> tuple[str, ...]:
        """Options as Beam takes them."""
        return (
            "--runner=PortableRunner",
            f"--job_endpoint={self.job_endpoint}",
            f"--job_server_timeout={_WAIT_SECONDS}",
            # Workers that somebody else has started: they have our packages, so nothing is staged, fetched or installed.
            "--environment_type=EXTERNAL",
            f"--environment_config={self.worker_pool}",
        )


class FlinkConfig(_JobServerConfig):
    """Apache Flink behind a Beam job server."""

    name: Literal["flink"] = "flink"
    parallelism: int | None = pydantic.Field(default=None, ge=1)
    """Parts that run at the same time; null leaves it to Flink."""

    def arguments(self) -> tuple[str, ...]:
        """Options as Beam takes them."""
        return (*super().arguments(), *((f"--parallelism={self.parallelism}",) if self.parallelism else ()))


class SparkConfig(_JobServerConfig):
    """Apache Spark behind a Beam job server."""

    name: Literal["spark"] = "spark"


class DataflowConfig(Config):
    """Google Cloud Dataflow; workers need our packages, from an image or from setup.py."""

    name: Literal["dataflow"] = "dataflow"
    project: str
    """Project that pays."""
    region: str
    """Region of the workers."""
    temp_location: str = pydantic.Field(pattern=r"^gs://")
    """Folder for what is staged, gs://bucket/folder."""
    sdk_container_image: str | None = None
    """Image of the workers, of Beam's Python SDK with longplay installed; null ships our packages with `setup_file`."""
    setup_file: str | None = None
    """setup.py that workers install; null takes that of this copy of longplay."""
    max_num_workers: int | None = pydantic.Field(default=None, ge=1)
    """Most workers; null leaves it to Dataflow."""

    def arguments(self) -> tuple[str, ...]:
        """Options as Beam takes them."""
        packages = f"--sdk_container_image={self.sdk_container_image}" if self.sdk_container_image else f"--setup_file={self._setup_file()}"
        return (
            "--runner=DataflowRunner",
            f"--project={self.project}",
            f"--region={self.region}",
            f"--temp_location={self.temp_location}",
            f"--staging_location={self.temp_location}/staging",
            "--experiments=use_runner_v2",
            packages,
            *((f"--max_num_workers={self.max_num_workers}",) if self.max_num_workers else ()),
        )

    def _setup_file(self) -> str:
        return self.setup_file or str(Path(__file__).resolve().parent.parent / "setup.py")

    @pydantic.model_validator(mode="after")
    def _packages_are_there(self) -> "DataflowConfig":
        if self.sdk_container_image and self.setup_file:
            raise ValueError("sdk_container_image and setup_file both say where workers take our packages from; give one")
        return self


AnyEngine = Annotated[FlinkConfig | SparkConfig | DataflowConfig, pydantic.Field(discriminator="name")]


class BeamConfig(Config):
    """How Apache Beam runs; no result depends on it."""

    runner: str = "FnApiRunner"
    """Beam runner. The default runs in this process; it downloads nothing."""
    engine: AnyEngine | None = None
    """An engine that spreads the work over machines, with the options it needs, in place of `runner`; null is none. Its workers must see
    the folders that steps read and write under the same paths."""
    args: tuple[str, ...] = ()
    """Further options, such as --max_parallelism=16; what is stated twice counts as it is stated last."""

    def arguments(self) -> tuple[str, ...]:
        """Options as Beam takes them."""
        runner = self.engine.arguments() if self.engine is not None else (f"--runner={self.runner}",)
        return (*runner, *self.args)

    @pydantic.model_validator(mode="after")
    def _one_runner(self) -> "BeamConfig":
        if self.engine is not None and "runner" in self.model_fields_set and self.runner != type(self).model_fields["runner"].default:
            raise ValueError(f"runner is {self.runner} and engine is {self.engine.name}; give one of them")
        return self
