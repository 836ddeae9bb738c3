"""Finding log files: paths, globs, directories, and files that do not count."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.datasets.base import Columns
from components.datasets.delimited import DelimitedConfig
from components.datasets.files import first_line, list_files
from schemas.config import ConfigError
from schemas.reward import CLICK

Write = Callable[[str, str], Path]
Find = Callable[..., list[str]]


@pytest.fixture
def tree(write: Write, tmp_path: Path) -> Path:
    for name in (
        "a.csv",
        "b.csv",
        "c.txt",
        "d/e.csv",
        "d/dt=1/f.csv",
        ".hidden.csv",
        "_SUCCESS",
        "_tmp/g.csv",
        ".git/h.csv",
        "d/.e.csv.crc",
    ):
        write(f"logs/{name}", name)
    (tmp_path / "logs" / "empty").mkdir()
    return tmp_path / "logs"


@pytest.fixture
def find(tree: Path) -> Find:
    def run(*paths: str) -> list[str]:
        files = list_files([str(tree / path) for path in paths], "key")
        return [Path(file.path).relative_to(tree).as_posix() for file in files]

    return run


def test_a_file_is_itself_also_with_a_name_that_would_be_hidden(find: Find) -> None:
    assert find("a.csv") == ["a.csv"]
    assert find("_SUCCESS") == ["_SUCCESS"]


def test_a_directory_is_all_visible_files_below_it_in_order(find: Find) -> None:
    assert find("") == ["a.csv", "b.csv", "c.txt", "d/dt=1/f.csv", "d/e.csv"]


def test_a_glob_is_the_visible_files_it_matches(find: Find) -> None:
    assert find("*.csv") == ["a.csv", "b.csv"]
    assert find("d/*/*.csv") == ["d/dt=1/f.csv"]
    assert find("[ab].csv") == ["a.csv", "b.csv"]
    assert find("*") == ["a.csv", "b.csv", "c.txt"]


def test_a_glob_does_not_reach_into_hidden_directories(find: Find) -> None:
    assert find("**/*.csv") == ["a.csv", "b.csv", "d/dt=1/f.csv", "d/e.csv"]


def test_a_file_named_twice_counts_once(find: Find) -> None:
    assert find("b.csv", "*.csv", "b.csv") == ["a.csv", "b.csv"]


def test_a_file_named_in_two_spellings_counts_once(find: Find) -> None:
    assert len(find("b.csv", "d/../b.csv")) == 1


def test_sizes_and_times_of_change_are_those_of_the_files(tree: Path) -> None:
    os.utime(tree / "a.csv", (0, 1234.5))
    (file,) = list_files([str(tree / "a.csv")], "key")
    assert (file.path, file.num_bytes, file.modified) == (str(tree / "a.csv"), 5, 1234.5)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.csv", r"^key: no such file or directory: '.*/nowhere\.csv' \(in "),
        ("*.parquet", r"^key: no file matches '.*/\*\.parquet' \(in "),
        ("empty", r"^key: directory '.*/empty' holds no files \(names beginning with \. or _ do not count\)"),
    ],
)
def test_a_path_that_matches_nothing_is_a_configuration_error(find: Find, path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find(path)
    with pytest.raises(ConfigError, match=words):
        find("a.csv", path)


@pytest.fixture
def config() -> Callable[[str | tuple[str, ...]], DelimitedConfig]:
    columns = Columns(user="user", item="item", timestamp="time")
    return lambda path: DelimitedConfig(path=path, columns=columns, feedback={"click": CLICK})


def test_an_empty_path_is_a_configuration_error(
    config: Callable[..., DelimitedConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.csv").write_text("user,item,time\na,x,1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="path"):
        config("").sources()


def test_no_paths_are_a_configuration_error(config: Callable[..., DelimitedConfig]) -> None:
    with pytest.raises(ConfigError, match="path"):
        config(()).sources()


def test_external_state_names_path_size_and_time_of_every_file(write: Write, config: Callable[..., DelimitedConfig]) -> None:
    path = write("log.csv", "user,item,time\na,x,1\n")
    os.utime(path, (0, 50))
    assert config(str(path)).external_state() == {"files": [[str(path), 21, 50.0]]}


def test_the_first_line_has_no_line_end_and_no_byte_order_mark(write: Write) -> None:
    assert first_line(str(write("a.csv", "\ufeffuser,item\r\nb,c\n"))) == "user,item"
    assert first_line(str(write("b.csv", ""))) == ""


# === Files that Beam's filesystems serve ===


@pytest.fixture
def bucket(tree: Path) -> Iterator[str]:
    """The tree behind a URL, `bucket://box/…`."""
    from apache_beam.io.filesystem import FileMetadata
    from apache_beam.io.localfilesystem import LocalFileSystem

    root = str(tree.parent)

    class Bucket(LocalFileSystem):
        @classmethod
        def scheme(cls) -> str:
            return "bucket"

        def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
            for found in super()._list(dir_or_prefix.replace("bucket://box", root)):
                yield FileMetadata(found.path.replace(root, "bucket://box"), found.size_in_bytes, found.last_updated_in_seconds)

    yield "bucket://box/logs"
    Bucket.scheme = classmethod(lambda cls: "closed")  # type: ignore[method-assign]


def found(*paths: str) -> list[str]:
    return [file.path.partition("/logs/")[2] for file in list_files(paths, "key")]


def test_urls_are_files_directories_or_globs_too(bucket: str) -> None:
    assert found(f"{bucket}/d/e.csv") == ["d/e.csv"]
    assert found(f"{bucket}/d") == found(f"{bucket}/d/") == ["d/dt=1/f.csv", "d/e.csv"]
    assert found(f"{bucket}/d/*/*.csv") == ["d/dt=1/f.csv"]


def test_a_url_is_not_a_prefix(bucket: str, write: Write) -> None:
    write("logs/d-old/x.csv", "")
    assert found(f"{bucket}/d") == ["d/dt=1/f.csv", "d/e.csv"]
    with pytest.raises(ConfigError, match="no such file or directory: 'bucket://box/logs/d/e'"):
        found(f"{bucket}/d/e")


def test_hidden_directories_behind_a_url_do_not_count(bucket: str, write: Write) -> None:
    write("logs/d/_temporary/0/x.csv", "")
    assert found(f"{bucket}/d") == ["d/dt=1/f.csv", "d/e.csv"]


@pytest.mark.parametrize("path", ["nosuchscheme://box/x.csv", "file:///tmp/x.csv"])
def test_a_url_that_no_filesystem_serves_is_a_configuration_error(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^key: "):
        list_files([path], "key")
