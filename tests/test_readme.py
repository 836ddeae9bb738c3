"""What the README tells people to type works, in the order in which it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import PipelineConfig
from schemas.config import load

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "pipeline" / "configs").glob("*.yaml"))


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def longplay(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "longplay", command
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_readme_commands_run_as_they_stand(tmp_path: Path) -> None:
    (config,) = blocks("yaml")
    name = config.splitlines()[0].removeprefix("# ")
    (tmp_path / name).write_text(config)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    # A command that is dropped or renamed must not drop out of this test silently.
    assert len(commands) == 9
    printed = {command: longplay(command, tmp_path) for command in commands}
    summary = json.loads((tmp_path / "artifacts" / "runs" / "latest" / "summary.json").read_text())
    assert summary["counts"]["rows_read"] >= 20_000
    assert summary["status"] == "complete"
    recommended = printed["longplay predict --model artifacts/serving/shop --history c03-0000,c03-0001 -k 5"].split()
    assert len(recommended) == 10
    assert len(set(recommended[1::2])) == 5
    assert "python" in (tmp_path / "pipeline.yaml").read_text()


def test_readme_names_every_make_target_and_config() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in CONFIGS:
        assert path.name in text
    assert {"make run", "make test"} <= set(re.findall(r"make \w+", text))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_committed_configurations_are_valid(path: Path) -> None:
    assert load(PipelineConfig, path).name == path.stem


def test_there_are_three_committed_configurations() -> None:
    assert [path.stem for path in CONFIGS] == ["quickstart", "retailrocket", "taobao"]
