"""Tables of neighbours as files."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import Artifact, ArtifactError
from models.co_visitation import Neighbours

ITEM_ID, SIMILARITY, SESSIONS = "item_id", "similarity", "sessions"


def write_neighbours(neighbours: Neighbours, folder: Path, number: int = 0, count: int = 1) -> None:
    """Writes the rows of a range of items, as one of the files of a table; the file is there when it is complete."""
    width = neighbours.item_id.shape[1]
    columns = {
        ITEM_ID: pa.FixedSizeListArray.from_arrays(pa.array(neighbours.item_id.astype(np.int32).ravel()), width),
        SIMILARITY: pa.FixedSizeListArray.from_arrays(pa.array(neighbours.similarity.astype(np.float32).ravel()), width),
        SESSIONS: neighbours.sessions,
    }
    path = folder / f"neighbours-{number:05d}-of-{count:05d}.parquet"
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    os.replace(temporary, path)


def read_neighbours(artifact: Artifact, num_neighbours: int | None = None) -> Neighbours:
    """The table of all items [N, M], or its first columns.

    Raises:
        ArtifactError: The artifact has fewer columns, or its files do not hold a row for every item.
    """
    width, num_items = int(artifact.properties["num_neighbours"]), int(artifact.properties["num_items"])
    kept = width if num_neighbours is None else num_neighbours
    if kept > width:
        raise ArtifactError(f"{artifact.path}: has {width} neighbours of each item, {kept} are wanted (neighbour_gen.num_neighbours)")
    ids, similarities, sessions = [], [], []
    for path in sorted(artifact.path.glob("*.parquet")):
        rows = pq.read_table(path).combine_chunks()
        ids.append(_columns(rows[ITEM_ID], width)[:, :kept].astype(np.int64))
        similarities.append(_columns(rows[SIMILARITY], width)[:, :kept].astype(np.float64))
        sessions.append(rows[SESSIONS].to_numpy())
    found = sum(len(part) for part in ids)
    if found != num_items:
        raise ArtifactError(f"{artifact.path}: {found:,} rows, one for each of {num_items:,} item ids is expected")
    shrinkage = float(artifact.properties["shrinkage"])
    return Neighbours(np.concatenate(ids), np.concatenate(similarities), np.concatenate(sessions), shrinkage)


def read_sessions(artifact: Artifact) -> npt.NDArray[np.int64]:
    """[N] sessions that each item is in, without its neighbours."""
    parts = [pq.read_table(path, columns=[SESSIONS])[SESSIONS].to_numpy() for path in sorted(artifact.path.glob("*.parquet"))]
    sessions: npt.NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *parts])
    return sessions


def _columns(column: Any, width: int) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.combine_chunks().values.to_numpy()
    return values.reshape(-1, width)
