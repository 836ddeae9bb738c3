"""Records encoded in batches are what TensorFlow's own protos and writer make, byte for byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.trajectory_gen.encoding import RecordFile, Values, encode, float_values, int64_values, text_values, unframed

integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32)
words = st.text(max_size=300)
record = st.tuples(st.lists(integers, min_size=1, max_size=40), st.lists(floats, min_size=1, max_size=40), words)


def columns(records: list[tuple[list[int], list[float], str]]) -> dict[str, Values]:
    """Features `n` (whole numbers), `a_float` and `text` of every record."""

    def offsets(place: int) -> Any:
        return np.append(0, np.cumsum([len(r[place]) for r in records])).astype(np.int64)  # type: ignore[arg-type]

    return {
        "n": int64_values(np.array([v for r in records for v in r[0]], np.int64), offsets(0)),
        "a_float": float_values(np.array([v for r in records for v in r[1]], np.float32), offsets(1)),
        "text": text_values(pa.array([r[2] for r in records])),
    }


def example(values: tuple[list[int], list[float], str]) -> bytes:
    feature = {
        "n": tf.train.Feature(int64_list=tf.train.Int64List(value=values[0])),
        "a_float": tf.train.Feature(float_list=tf.train.FloatList(value=np.array(values[1], np.float32))),
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[values[2].encode()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(record, min_size=1, max_size=20))
def test_records_are_those_of_the_protos_with_their_features_in_order(records: list[tuple[list[int], list[float], str]]) -> None:
    assert list(unframed(encode(columns(records)))) == [example(values) for values in records]


def test_lengths_around_the_borders_of_varints_are_right() -> None:
    # A varint takes another byte from 128 and from 16,384 on; lengths of values, of entries and of records all cross them.
    records = [([0] * size, [0.0], "x" * size) for size in (1, 100, 110, 120, 126, 127, 128, 129, 300, 16_250, 16_383, 16_384, 16_400)]
    assert list(unframed(encode(columns(records)))) == [example(values) for values in records]


def test_a_file_is_one_that_tensorflow_would_have_written(tmp_path: Path) -> None:
    records = [([n, -n], [n / 3], f"user {n}") for n in range(50)]
    with RecordFile(tmp_path / "ours.gz", 1) as file:
        file.write(encode(columns(records[:20])))
        file.write(encode(columns(records[20:])))
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for values in records:
            writer.write(example(values))
    # The reader checks both checksums of every record.
    assert list(tf.data.TFRecordDataset(str(tmp_path / "ours.gz"), "GZIP").as_numpy_iterator()) == [example(v) for v in records]
    framed = np.concatenate([encode(columns(records[:20])), encode(columns(records[20:]))])
    assert framed.tobytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_without_records_is_a_valid_one(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "none.gz", 1):
        pass
    assert list(tf.data.TFRecordDataset(str(tmp_path / "none.gz"), "GZIP")) == []


def test_an_error_while_compressing_is_raised(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "x.gz", 1)
    file._stream.close()
    with pytest.raises(ValueError, match="closed"), file:
        file.write(np.zeros(1 << 20, np.uint8))


def test_texts_of_a_slice_are_those_of_the_slice() -> None:
    whole = pa.array(["a", "bb", "ccc", "dddd"])
    values = text_values(whole.slice(1, 2))
    found = [values.data[start : start + size].tobytes() for start, size in zip(values.starts, values.lengths, strict=True)]
    assert found == [b"bb", b"ccc"]
