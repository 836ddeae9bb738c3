"""Finding and opening log files: local ones with the standard library, everything else through Beam's filesystems."""

import bz2
import glob
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

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
    if not paths:
        raise ConfigError(f"{key}: expected at least one path, found none")
    found: dict[str, LogFile] = {}
    for path in paths:
        if not path.strip():
            raise ConfigError(f"{key}: expected a path, found {path!r}")
        matches = _list_remote(path, key) if is_remote(path) else _list_local(path)
        if not matches:
            where = Path(path)
            if not is_remote(path) and where.is_dir():
                raise ConfigError(f"{key}: directory {path!r} holds no files (names beginning with . or _ do not count)")
            kind = "no file matches" if _is_pattern(path) else "no such file or directory:"
            raise ConfigError(f"{key}: {kind} {path!r}" + ("" if is_remote(path) else f" (in {Path.cwd()})"))
        for match in matches:
            # One file may be reached by several spellings.
            found.setdefault(match.path if is_remote(match.path) else str(Path(match.path).resolve()), match)
    return tuple(sorted(found.values(), key=lambda file: file.path))


def file_states(paths: Sequence[str], key: str) -> list[list[Any]]:
    """What identifies files without reading them, path, size and time of change of each; see `list_files`."""
    return [[file.path, file.num_bytes, file.modified] for file in list_files(paths, key)]


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
        # What the pattern itself spells out may be hidden, what it finds may not.
        fixed = next(place for place, part in enumerate(where.parts) if _is_pattern(part)) if _is_pattern(path) else 0
        candidates = [p for p in map(Path, glob.glob(path, recursive=True)) if all(_visible(part) for part in p.parts[fixed:])]
    files = [p for p in candidates if p.is_file()]
    return [LogFile(str(p), (stat := p.stat()).st_size, stat.st_mtime) for p in files]


def _is_pattern(path: str) -> bool:
    return any(c in path for c in "*?[")


def _list_remote(path: str, key: str) -> list[LogFile]:
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    pattern = path if _is_pattern(path) else path.rstrip("/") + "*"
    exact, inside = path.rstrip("/"), path.rstrip("/") + "/"
    # A name that the path spells out may be hidden, one that it finds may not.
    fixed = len(re.split(r"[*?\[]", path)[0].rsplit("/", 1)[0]) if _is_pattern(path) else len(exact)
    files = []
    try:
        results = FileSystems.match([pattern, inside + "**"])
    except (ValueError, BeamIOError) as error:
        raise ConfigError(f"{key}: {path!r} cannot be listed: {error}") from None
    for result in results:
        for metadata in result.metadata_list:
            wanted = pattern == path or metadata.path == exact or metadata.path.startswith(inside)
            if wanted and all(_visible(part) for part in metadata.path[fixed:].split("/")):
                files.append(LogFile(metadata.path, metadata.size_in_bytes, metadata.last_updated_in_seconds or 0.0))
    return files
