"""What `longplay infer` finds in the folder for its answers."""

from pathlib import Path

import pytest

from pipeline.infer import JOB_FILE, PARTS_FOLDER, InferError, _prepare

ANSWERS = "recommendations-00001-of-00002.jsonl.gz"


def _left_by_a_killed_job(out: Path) -> Path:
    """A part of {"k": 1} that was done; returns the folder of parts."""
    scratch = out / PARTS_FOLDER
    _prepare(out, scratch, {"k": 1})
    (scratch / "00000.json").write_text("{}")
    return scratch


@pytest.mark.parametrize("put", [(), (ANSWERS,)], ids=["parts", "parts and answers"])
def test_the_same_job_goes_on(put: tuple[str, ...], tmp_path: Path) -> None:
    scratch = _left_by_a_killed_job(tmp_path)
    for name in put:
        (tmp_path / name).touch()
    _prepare(tmp_path, scratch, {"k": 1})
    assert {path.name for path in scratch.iterdir()} == {JOB_FILE, "00000.json"}


def test_parts_of_another_job_are_not_taken(tmp_path: Path) -> None:
    scratch = _left_by_a_killed_job(tmp_path)
    _prepare(tmp_path, scratch, {"k": 2})
    assert {path.name for path in scratch.iterdir()} == {JOB_FILE}


def test_answers_that_another_job_had_put_there_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    scratch = _left_by_a_killed_job(tmp_path)
    (tmp_path / ANSWERS).touch()
    with pytest.raises(InferError, match=rf"--out: .* is not empty, it holds {ANSWERS}"):
        _prepare(tmp_path, scratch, {"k": 2})
    # And what the killed job could go on with is still there.
    assert (scratch / "00000.json").is_file()
