"""What can be known of the image without building it: what is copied is enough, and the rest is kept out."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cache import code_digest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "kubeflow" / "Dockerfile"


def instructions() -> list[list[tuple[str, str]]]:
    """Instruction and arguments by stage; what stands before the first stage is a stage, too."""
    text = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")))
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest.strip()))
    return stages


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for found, rest in stage if found == name]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that matches it, or a folder above it, decides."""
    answer = False
    parts = Path(path).parts
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            matches = any(found.count("/") == pattern.count("/") and fnmatch.fnmatch(found, pattern) for found in above)
        if matches:
            answer = not line.startswith("!")
    return answer


def test_the_context_holds_the_sources_and_nothing_private() -> None:
    for path in ("setup.py", "constraints.txt", "pipeline/cli.py", "pipeline/configs/quickstart.yaml", "schemas/trajectory.pbtxt"):
        assert not is_ignored(path), path
    for path in (
        ".git/config",
        ".venv/bin/python",
        "artifacts/store/x",
        "tests/conftest.py",
        "token",
        "pipeline/__pycache__/cli.pyc",
        "logs.csv",
    ):
        assert is_ignored(path), path


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    _, build, final = instructions()
    installed = [command for command in of(build, "RUN") if "pip install" in command]
    assert installed
    assert "PIP_CONSTRAINT=/src/constraints.txt" in " ".join(of(build, "ENV")).split()
    assert not any("pip" in command for command in of(final, "RUN"))
    (user,) = of(final, "USER")
    # A number, because Kubernetes cannot tell whether a name is root's.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    variables = dict(pair.split("=", 1) for line in of(final, "ENV") for pair in shlex.split(line))
    assert variables["PYTHONPATH"] == "/app"
    assert variables["PATH"].startswith("/opt/longplay/bin:")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /app as the last stage would hold it."""
    image = tmp_path_factory.mktemp("image")
    for line in of(instructions()[2], "COPY"):
        *sources, target = shlex.split(line)
        if sources[0].startswith("--from"):
            continue
        for source in sources:
            assert not is_ignored(source), source
            place = image / target.lstrip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=_ignored)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / source, place)
    return image / "app"


def _ignored(folder: str, names: list[str]) -> set[str]:
    below = Path(folder).relative_to(ROOT)
    return {name for name in names if is_ignored((below / name).as_posix())}


def run(app: Path, folder: Path, *command: str) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(app), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


WITNESS = """
import json, pipeline, pipeline.kfp, schemas
from importlib import resources
from pipeline.cache import code_digest
from pipeline.pages import environment
from pipeline.config import PipelineConfig
from pipeline.commands.common import DEFAULT_CONFIG
from schemas.config import load
from components.registry import COMPONENTS
load(PipelineConfig, DEFAULT_CONFIG)
for name in ("report.html.j2", "compare.html.j2"):
    environment().get_template(name)
assert resources.files(schemas).joinpath("trajectory.pbtxt").is_file()
print(pipeline.__file__)
print(json.dumps({name: code_digest(f"components.{name}.executor") for name in COMPONENTS}))
"""


def test_what_is_copied_is_the_code_that_a_pipeline_is_compiled_from(app: Path, tmp_path: Path) -> None:
    """Steps refuse other code than that of the YAML, so the copy must not lack or change a file."""
    where, digests = run(app, tmp_path, "-c", WITNESS).splitlines()
    assert where == str(app / "pipeline" / "__init__.py")
    assert f'"trainer": "{code_digest("components.trainer.executor")}"' in digests
    assert f'"trajectory_gen": "{code_digest("components.trajectory_gen.executor")}"' in digests
    assert "--component NAME" in run(app, tmp_path, "-m", "pipeline.run_component", "--help")
    # What Beam ships to its workers.
    assert (app / "setup.py").is_file()
    assert not list(app.rglob("*.pyc"))
