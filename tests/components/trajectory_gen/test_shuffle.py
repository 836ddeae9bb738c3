"""The stable hash, and blocks that travel by file or by value."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.datasets.normalising import SCHEMA
from components.trajectory_gen.shuffle import split_by_user, stable_hash, store_blocks

MASK = (1 << 64) - 1


GOLDEN = {
    "": 0xECBA3DF2C3383C52,
    "a": 0xED8170DE1919A24D,
    "foobar": 0x6916CE8B48D4BC55,
    "user-42": 0x17EA2F3FEF676A9A,
    "é": 0x7D53F00F9E4AA91D,
}


def fnv_1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def finalised(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    return value ^ value >> 33


def hashes(texts: list[str]) -> list[int]:
    return [int(value) for value in stable_hash(pa.array(texts, pa.string()))]


def test_the_hash_is_the_same_on_every_machine() -> None:
    # The first column is published with the hash (Fowler, Noll, Vo); the second follows with the finaliser.
    assert [(fnv_1a(text), finalised(fnv_1a(text))) for text in ("", "a", "foobar")] == [
        (0xCBF29CE484222325, GOLDEN[""]),
        (0xAF63DC4C8601EC8C, GOLDEN["a"]),
        (0x85944171F73967E8, GOLDEN["foobar"]),
    ]
    assert hashes(list(GOLDEN)) == list(GOLDEN.values())


@given(st.lists(st.text(max_size=30), min_size=1, max_size=30), st.data())
def test_the_hash_equals_a_loop_over_bytes_also_of_a_slice(texts: list[str], data: st.DataObject) -> None:
    expected = [finalised(fnv_1a(text)) for text in texts]
    assert hashes(texts) == expected
    begin = data.draw(st.integers(0, len(texts) - 1))
    length = data.draw(st.integers(0, len(texts) - begin))
    sliced = pa.array(texts).slice(begin, length)
    assert [int(value) for value in stable_hash(sliced)] == expected[begin : begin + length]


def test_long_repeated_and_empty_strings_hash_alike_wherever_they_stand() -> None:
    texts = ["x" * 5000, "", "x" * 4999, "", "x" * 5000, "y"]
    assert hashes(texts) == [finalised(fnv_1a(text)) for text in texts]
    assert hashes([""]) == [finalised(fnv_1a(""))]
    assert hashes([]) == []


def test_numbered_users_spread_evenly_over_parts() -> None:
    users = [str(number) for number in range(20_000)]
    for parts in (2, 7, 64):
        counts = np.bincount([value % parts for value in hashes(users)], minlength=parts)
        # A binomial count lies within five standard errors of its mean; a bad low bit would leave parts empty.
        expected = len(users) / parts
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


# === Blocks ===


def batch(users: list[str], first: int = 0) -> pa.RecordBatch:
    count = len(users)
    arrays = [
        pa.array(users, pa.string()),
        pa.nulls(count, pa.string()),
        pa.array([f"i{n}" for n in range(count)], pa.string()),
        pa.array(range(count), pa.int64()),
        pa.array([0] * count, pa.int8()),
        pa.array([1.0] * count, pa.float32()),
        pa.nulls(count, pa.float32()),
        pa.array(range(first, first + count), pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def test_a_batch_is_divided_by_the_hash_of_the_user() -> None:
    users = ["u", "v", "w", "u", "x", "v", "u"]
    parts = split_by_user(batch(users, first=100), 3)
    assert sorted(row for _, _, rows in parts for row in rows["position"].to_pylist()) == list(range(100, 107))
    for partition, first, rows in parts:
        assert {finalised(fnv_1a(user)) % 3 for user in rows["user"].to_pylist()} == {partition}
        positions = rows["position"].to_pylist()
        assert positions == sorted(positions)
        assert first == positions[0]
    assert [partition for partition, _, _ in parts] == sorted({partition for partition, _, _ in parts})


def test_one_part_is_the_whole_batch_and_no_rows_are_no_parts() -> None:
    ((partition, first, rows),) = split_by_user(batch(["u", "v"], first=5), 1)
    assert (partition, first, rows.num_rows) == (0, 5, 2)
    assert split_by_user(batch([]), 3) == []
    assert split_by_user(batch([]), 1) == []


@pytest.mark.parametrize("by_file", [True, False])
def test_a_stored_block_is_read_back_as_it_was(tmp_path: Path, by_file: bool) -> None:
    parts = split_by_user(batch([f"u{n % 13}" for n in range(500)]), 4)
    refs = store_blocks(parts, str(tmp_path) if by_file else None)
    assert [(partition, ref.first) for partition, ref in refs] == [(partition, first) for partition, first, _ in parts]
    for (_, ref), (_, _, rows) in zip(refs, parts, strict=True):
        assert ref.read() == pa.Table.from_batches([rows])
    files = [path.suffix for path in tmp_path.iterdir()]
    assert files == ([".arrow"] if by_file else [])


def test_a_block_that_cannot_be_stored_leaves_no_finished_file(tmp_path: Path) -> None:
    def broken() -> object:
        yield 0, 0, batch(["u"])
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store_blocks(broken(), str(tmp_path))  # type: ignore[arg-type]
    assert list(tmp_path.glob("*.arrow")) == []


def test_every_bundle_writes_a_file_of_its_own(tmp_path: Path) -> None:
    first = store_blocks([(0, 0, batch(["u"]))], str(tmp_path))
    second = store_blocks([(0, 0, batch(["v"]))], str(tmp_path))
    assert first[0][1].path != second[0][1].path
    assert first[0][1].read()["user"].to_pylist() == ["u"]
