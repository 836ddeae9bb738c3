"""Finding and opening log files: local ones with the standard library, everything else through Beam's filesystems."""

import bz2
import glob
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from schemas.config import ConfigError


@dataclass(frozen=True)
class LogFile:
    """One input file.

    Attributes:
        path: Path or URL.
        num_bytes: Size as stored.
        modified: Time of the last change, seconds since 1970-01-01 UTC.
    """

    path: str
    num_bytes: int
    modified: float


def is_remote(path: str) -> bool:
    """True for a URL (`gs://`, `s3://`, `hdfs://`, …), which Beam's filesystems serve."""
    return "://" in path


def list_files(paths: Sequence[str], key: str) -> tuple[LogFile, ...]:
    """Files behind paths, globs and directories, in order of their names.

    In a directory and behind a glob, files that begin with a dot or an underscore are left out, as Hadoop's tools do
    (`_SUCCESS`, `.crc`).

    Args:
        paths: Files, globs or directories, local or URLs.
        key: Configuration key they came from, for messages.

    Raises:
        ConfigError: A path matches nothing.
    """
    found: dict[str, LogFile] = {}
    for path in paths:
        matches = _list_remote(path) if is_remote(path) else _list_local(path)
        if not matches:
            where = Path(path)
            if not is_remote(path) and where.is_dir():
                raise ConfigError(f"{key}: directory {path!r} holds no files (names beginning with . or _ do not count)")
            kind = "no file matches" if any(c in path for c in "*?[") else "no such file or directory:"
            raise ConfigError(f"{key}: {kind} {path!r}" + ("" if is_remote(path) else f" (in {Path.cwd()})"))
        found.update({match.path: match for match in matches})
    return tuple(found[path] for path in sorted(found))


def open_log(path: str) -> BinaryIO:
    """Opens a file as a stream of its decompressed bytes; `.gz` and `.bz2` are recognised by name."""
    if is_remote(path):
        from apache_beam.io.filesystems import FileSystems

        return cast(BinaryIO, FileSystems.open(path))
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(path, "rb"))
    return open(path, "rb")


def is_compressed(path: str) -> bool:
    """True where a reader cannot start in the middle."""
    return path.endswith((".gz", ".bz2"))


def first_line(path: str) -> str:
    """The first line of a text file, without its line end; empty for an empty file."""
    with open_log(path) as stream:
        return stream.readline(1 << 20).decode("utf-8-sig", errors="replace").rstrip("\r\n")


def _visible(name: str) -> bool:
    return not name.startswith((".", "_"))


def _list_local(path: str) -> list[LogFile]:
    where = Path(path)
    if where.is_dir():
        candidates = [p for p in where.rglob("*") if all(_visible(part) for part in p.relative_to(where).parts)]
    elif where.is_file():
        candidates = [where]
    else:
        candidates = [Path(match) for match in glob.glob(path, recursive=True) if _visible(Path(match).name)]
    files = [p for p in candidates if p.is_file()]
    return [LogFile(str(p), (stat := p.stat()).st_size, stat.st_mtime) for p in files]


def _list_remote(path: str) -> list[LogFile]:
    from apache_beam.io.filesystems import FileSystems

    pattern = path if any(c in path for c in "*?[") else path.rstrip("/") + "*"
    exact, inside = path.rstrip("/"), path.rstrip("/") + "/"
    files = []
    for result in FileSystems.match([pattern, inside + "**"]):
        for metadata in result.metadata_list:
            wanted = pattern == path or metadata.path == exact or metadata.path.startswith(inside)
            if wanted and _visible(metadata.path.rsplit("/", 1)[-1]):
                files.append(LogFile(metadata.path, metadata.size_in_bytes, metadata.last_updated_in_seconds or 0.0))
    return files
