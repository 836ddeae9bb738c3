"""What the commands share: options, exit codes, and how a command ends that was asked for something wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from components.base import Context
    from pipeline.config import PipelineConfig

_Result = TypeVar("_Result")

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"

EXIT_FAILED, EXIT_USAGE = 1, 2


def setting(meaning: str) -> Any:
    """The option that overrides values, with what it overrides."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{meaning} Can be given often.")


ConfigPath = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="YAML or JSON file. Without it: the simulated shop.", show_default=False)
]
Overrides = Annotated[list[str] | None, setting("Override one value, such as trainer.max_epochs=3.")]
BeamOptions = Annotated[
    list[str] | None,
    typer.Option("--beam", metavar="OPTION", help="An option of Apache Beam, such as --runner=FlinkRunner. Can be given often."),
]
Root = Annotated[Path, typer.Option("--root", help="Folder that holds artifacts, cache and runs.")]


def make_console() -> Console:
    """Lines are as wide as the terminal, or 160 characters in a file."""
    from rich.console import Console

    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=160)


def load_pipeline(config: Path | None, overrides: list[str] | None) -> PipelineConfig:
    """The configuration of a file, else of the simulated shop; what is wrong with it ends the command."""
    from pipeline.config import PipelineConfig
    from schemas.config import ConfigError, load

    try:
        return load(PipelineConfig, config or DEFAULT_CONFIG, overrides or [])
    except ConfigError as error:
        usage(str(error))


def usage(message: str) -> NoReturn:
    """Ends a command that cannot be done as it was asked for."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def failure(message: str) -> NoReturn:
    """Ends a command whose work failed."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)


def with_beam(options: list[str] | None, work: Callable[[Context], _Result]) -> _Result:
    """Does work that is no step of a run; what goes wrong becomes an exit code."""
    from components.artifacts import ArtifactError
    from components.base import ComponentError, Context
    from pipeline.console import ConsoleProgress, quieten
    from schemas.config import ConfigError

    quieten()
    given = options or []
    given = given if any(option.startswith("--runner") for option in given) else ["--runner=FnApiRunner", *given]
    try:
        with ConsoleProgress(make_console()) as progress:
            return work(Context(Path(), beam_args=tuple(given), progress=progress))
    except ConfigError as error:
        usage(str(error))
    except (ComponentError, ArtifactError) as error:
        failure(str(error))
