"""Item counts that merge, and the vocabulary made from them."""

from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.artifacts import Artifact
from components.trajectory_gen.sessions import Sessions
from schemas import interaction
from schemas.interaction import FEEDBACK_ROLES

ITEM = "item"
COUNT = "count"
ITEMS_FILE = "items.parquet"


def count_items(sessions: Sessions) -> pa.Table:
    """Events of each item, in all and by feedback role: columns item, count, click, purchase."""
    column = sessions.rows.column(interaction.ITEM).combine_chunks()
    codes = column.indices.to_numpy(zero_copy_only=False)
    size = len(column.dictionary)
    role = sessions.column(interaction.FEEDBACK).astype(np.int64)
    counts = {name: np.bincount(codes[role == r], minlength=size) for r, name in enumerate(FEEDBACK_ROLES)}
    total = sum(counts.values(), np.zeros(size, np.int64))
    table = pa.table({ITEM: column.dictionary, COUNT: total, **counts})
    return table.filter(pa.array(total > 0))


class MergeCounts(beam.CombineFn):
    """Sums tables of counts by item; memory is that of the catalogue."""

    _PENDING = 32

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, accumulator: list[pa.Table], element: pa.Table) -> list[pa.Table]:
        accumulator.append(element)
        return [_sum_by_item(accumulator)] if len(accumulator) >= self._PENDING else accumulator

    def merge_accumulators(self, accumulators: list[list[pa.Table]]) -> list[pa.Table]:
        tables = [table for accumulator in accumulators for table in accumulator]
        return [_sum_by_item(tables)] if tables else []

    def extract_output(self, accumulator: list[pa.Table]) -> pa.Table:
        return _sum_by_item(accumulator) if accumulator else empty_counts()


def empty_counts() -> pa.Table:
    """Counts of no items."""
    return pa.table({ITEM: pa.array([], pa.string()), **{name: pa.array([], pa.int64()) for name in (COUNT, *FEEDBACK_ROLES)}})


def _sum_by_item(tables: list[pa.Table]) -> pa.Table:
    names = [COUNT, *FEEDBACK_ROLES]
    summed = pa.concat_tables(tables).group_by(ITEM).aggregate([(name, "sum") for name in names])
    return pa.table({ITEM: summed[ITEM], **{name: summed[f"{name}_sum"] for name in names}}).combine_chunks()


def build_vocabulary(counts: pa.Table, min_count: int) -> pa.Table:
    """Items by falling count, ties by name; the item in row i has id i + 1."""
    kept = counts.filter(pc.greater_equal(counts[COUNT], min_count))
    return kept.sort_by([(COUNT, "descending"), (ITEM, "ascending")]).combine_chunks()


def item_ids(items: pa.Array | pa.DictionaryArray, vocabulary: pa.Table) -> npt.NDArray[np.int64]:
    """Vocabulary id of each item; unknown items get N, one more than the last."""
    unknown = vocabulary.num_rows + 1
    distinct = items.dictionary if pa.types.is_dictionary(items.type) else items
    known = vocabulary[ITEM].combine_chunks()
    found = pc.index_in(distinct, value_set=known) if len(known) else pa.nulls(len(distinct), pa.int32())
    ids = pc.fill_null(found, unknown - 1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    if pa.types.is_dictionary(items.type):
        return ids[items.indices.to_numpy(zero_copy_only=False)]
    return ids


def write_vocabulary(vocabulary: pa.Table, folder: Path) -> None:
    """Writes `items.parquet` into a folder."""
    pq.write_table(vocabulary, folder / ITEMS_FILE, compression="zstd")


def read_vocabulary(artifact: Artifact) -> pa.Table:
    """Reads the vocabulary of an artifact: columns item, count, click, purchase; row i is id i + 1."""
    return pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()
