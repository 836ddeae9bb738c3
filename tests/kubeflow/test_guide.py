"""What docs/KUBEFLOW.md tells people to write, to type and to look for is there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.beam import BeamConfig, FlinkConfig
from pipeline.cli import app
from pipeline.deployment import DeploymentConfig
from schemas.config import decode, override

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "KUBEFLOW.md").read_text(encoding="utf-8")
SOURCES = [path for folder in ("components", "pipeline", "kubeflow") for path in sorted((ROOT / folder).rglob("*.py"))]


BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
"""Language and text of every fenced block."""


def commands(program: str) -> list[list[str]]:
    """Words of the commands of a program in the fenced blocks; `…` stands for what goes on."""
    lines = "".join(text for language, text in BLOCKS if not language).replace("\\\n", " ").splitlines()
    return [[word for word in shlex.split(line, comments=True) if word != "…"] for line in lines if line.startswith(program)]


def test_the_deployment_of_the_guide_is_one() -> None:
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    deployment = decode(DeploymentConfig, yaml.safe_load(text.replace("2f9c…", "a" * 64)), "guide")
    assert deployment.is_pinned
    assert deployment.resources["trainer"].gpus == 1
    assert deployment.steps() == {"trainer", "trajectory_gen"}


def test_the_submit_script_takes_the_commands_of_the_guide(monkeypatch: pytest.MonkeyPatch, load_script: Callable[[str], Any]) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "https://kubeflow.example")
    parser = load_script("kubeflow/submit_run.py")._parser()
    found = [parser.parse_args(words[2:]) for words in commands("python kubeflow/submit_run.py")]
    assert [options.command.__name__ for options in found] == ["_run", "_schedule", "_follow"]
    assert (found[0].host, found[0].set, found[0].follow) == ("https://kubeflow.example/pipeline", ["trainer.max_epochs=5"], True)


def test_longplay_has_the_commands_and_options_of_the_guide() -> None:
    typed = commands("longplay")
    assert [words[1] for words in typed] == ["compile", "compile", "run"]
    for words in typed:
        known = CliRunner(env={"COLUMNS": "200"}).invoke(app, [words[1], "--help"]).output
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", known))


def test_the_engine_of_the_guide_is_one() -> None:
    (words,) = commands("longplay run")
    data: dict[str, Any] = {}
    override(data, [words[words.index("--set") + 1]])
    assert isinstance(decode(BeamConfig, data["beam"], "guide").engine, FlinkConfig)


def test_the_benchmark_takes_the_options_of_the_guide() -> None:
    text = (ROOT / "benchmarks" / "scale.py").read_text(encoding="utf-8")
    typed = commands("python benchmarks/scale.py")
    assert len(typed) == 3
    for words in typed:
        for word in words:
            assert not word.startswith("--") or f'add_argument("{word}"' in text


def test_what_goes_wrong_is_said_in_the_words_of_the_guide() -> None:
    code = " ".join(path.read_text(encoding="utf-8") for path in SOURCES)
    table = GUIDE[GUIDE.index("## When something is wrong") : GUIDE.index("## What has been tried")]
    quoted = [text for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for text in re.findall(r"`(.*?)`", row)]
    assert len(quoted) == 10
    for text in quoted:
        # Where the guide has … or N, the code has a value.
        for part in re.split(r"\s*…\s*|\bN\b", text):
            assert part.strip(" :,;") in code, part


def test_make_has_the_targets_of_the_guide() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)`", GUIDE)) | set(re.findall(r"or: make ([a-z-]+)", GUIDE))
    assert named == {"flink-jars", "image", "test-flink"}
    assert named <= targets
