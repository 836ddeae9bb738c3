"""Artifacts: what their digest depends on, and that nothing half-made looks finished."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from components import artifacts
from components.artifacts import MANIFEST, Artifact, ArtifactError, open_artifact, publish, verify, write_json, write_manifest


def make(folder: Path, files: dict[str, str], properties: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    folder.mkdir(exist_ok=True)
    arguments = {"kind": "Examples", "producer": "trajectory_gen.examples", "provenance": {"run": 1}, **changes}
    return write_manifest(folder, properties=properties or {}, **arguments)


FILES = {"Split-train/a.gz": "one", "Split-eval/a.gz": "two", "top.txt": "three"}


def test_the_digest_depends_on_names_contents_properties_and_type(tmp_path: Path) -> None:
    digest = make(tmp_path / "a", FILES, {"n": 1}).digest
    assert make(tmp_path / "b", FILES, {"n": 1}).digest == digest
    others = [
        make(tmp_path / "c", {**FILES, "top.txt": "four"}, {"n": 1}),
        make(tmp_path / "d", {**FILES, "more.txt": ""}, {"n": 1}),
        make(tmp_path / "e", {"Split-train/b.gz": "one", "Split-eval/a.gz": "two", "top.txt": "three"}, {"n": 1}),
        make(tmp_path / "f", FILES, {"n": 2}),
        make(tmp_path / "g", FILES, {"n": 1}, kind="Model"),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def test_the_digest_does_not_depend_on_place_time_producer_or_provenance(tmp_path: Path) -> None:
    one = make(tmp_path / "here", FILES, {"b": 1, "a": 2})
    other = make(tmp_path / "far" / "away", FILES, {"a": 2, "b": 1}, producer="x.y", provenance={"run": 2})
    os.utime(other.path / "top.txt", (0, 0))
    assert write_manifest(other.path, "Examples", "x.y", {"a": 2, "b": 1}, {}).digest == one.digest


def test_contents_that_change_places_change_the_digest(tmp_path: Path) -> None:
    assert make(tmp_path / "a", {"x": "1", "y": "2"}).digest != make(tmp_path / "b", {"x": "2", "y": "1"}).digest


def test_a_file_called_manifest_inside_the_artifact_is_content(tmp_path: Path) -> None:
    one = make(tmp_path / "a", {"assets/manifest.json": "1"})
    other = make(tmp_path / "b", {"assets/manifest.json": "2"})
    assert one.digest != other.digest


def test_a_manifest_says_what_is_there_and_where_it_came_from(tmp_path: Path) -> None:
    made = make(tmp_path / "a", {"x": "hello"}, {"n": 1})
    found = open_artifact(tmp_path / "a")
    assert found == made
    assert (found.type, found.properties) == ("Examples", {"n": 1})
    assert found.manifest["producer"] == "trajectory_gen.examples"
    assert found.manifest["provenance"] == {"run": 1}
    # sha256 of "hello"
    assert found.manifest["files"] == {"x": {"bytes": 5, "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}
    assert found.digest == json.loads((tmp_path / "a" / MANIFEST).read_text())["digest"]


def test_an_intact_artifact_is_verified(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a", FILES)
    verify(artifact)
    verify(artifact, contents=True)


def test_a_missing_or_truncated_file_is_found_by_name(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a", FILES)
    (tmp_path / "a" / "Split-train" / "a.gz").write_text("on")
    with pytest.raises(ArtifactError, match=r"Split-train/a\.gz: 2 bytes, 3 when it was made"):
        verify(artifact)
    (tmp_path / "a" / "Split-train" / "a.gz").unlink()
    with pytest.raises(ArtifactError, match=r"Split-train/a\.gz is missing"):
        verify(artifact)


def test_changed_content_of_the_same_size_is_found_when_contents_are_read(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a", FILES)
    (tmp_path / "a" / "top.txt").write_text("THREE")
    verify(artifact)
    with pytest.raises(ArtifactError, match=r"top\.txt: content differs from when it was made"):
        verify(artifact, contents=True)


def test_a_file_that_the_manifest_does_not_know_is_found(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a", FILES)
    (tmp_path / "a" / "Split-train" / "b.gz").write_text("stray")
    with pytest.raises(ArtifactError, match=r"Split-train/b\.gz"):
        verify(artifact)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: no such artifact folder"):
        open_artifact(tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "data.gz").write_text("x")
    with pytest.raises(ArtifactError, match=r"half: not a finished artifact, it has no manifest\.json"):
        open_artifact(tmp_path / "half")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type": "Exam', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"type": "Examples", "files": {}}', r"not an artifact manifest, it lacks \['digest', 'properties'\]"),
        ("[]", "not an artifact manifest"),
    ],
)
def test_a_torn_or_foreign_manifest_is_no_artifact(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=words):
        open_artifact(tmp_path)


def test_a_manifest_that_is_no_object_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("null")
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path)


def test_a_split_is_found_in_both_spellings(tmp_path: Path) -> None:
    artifact = make(tmp_path, {"Split-train/a": "1", "split-eval/a": "1"})
    assert artifact.split("train").name == "Split-train"
    assert artifact.split("eval").name == "split-eval"
    with pytest.raises(ArtifactError, match=r"no split 'test'; found \['Split-train', 'split-eval'\]"):
        artifact.split("test")


# === Publishing ===


def test_publishing_moves_a_folder_to_its_place_and_makes_the_way(tmp_path: Path) -> None:
    make(tmp_path / "making", FILES)
    publish(tmp_path / "making", tmp_path / "store" / "x" / "final")
    assert not (tmp_path / "making").exists()
    assert open_artifact(tmp_path / "store" / "x" / "final").type == "Examples"
    verify(open_artifact(tmp_path / "store" / "x" / "final"), contents=True)


def test_publishing_takes_the_place_of_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make(tmp_path / "final", {"old": "1"})
    make(tmp_path / "making", {"new": "2"})
    publish(tmp_path / "making", tmp_path / "final")
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == [MANIFEST, "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_crash_before_the_rename_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "final", {"old": "1"})
    make(tmp_path / "making", {"new": "2"})

    def full(path: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(artifacts, "_sync", full)
    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path / "making", tmp_path / "final")
    verify(open_artifact(tmp_path / "final"), contents=True)
    assert (tmp_path / "final" / "old").is_file()


def test_files_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "making", {"data": "1"})
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(artifacts, "_sync", lambda path: synced.append((path.name, (tmp_path / "final").exists())))
    publish(tmp_path / "making", tmp_path / "final")
    assert ("data", False) in synced
    assert (MANIFEST, False) in synced
    # The folder that holds the new name comes last.
    assert synced[-1] == (tmp_path.name, True)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"b": 1, "a": [1, 2]})
    assert path.read_text() == '{\n "a": [\n  1,\n  2\n ],\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"b": 1, "a": [1, 2]}


def test_json_that_cannot_be_written_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
