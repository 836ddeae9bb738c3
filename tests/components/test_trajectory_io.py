"""Trajectories as batches of tensors: every record once, in an order that seed and epoch decide."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import trajectory_io
from components.artifacts import Artifact, ArtifactError
from models.frameworks import tf

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

Write = Callable[..., list[str]]


def example(number: int, length: int, session: str | None = None, num_context: int = 0, is_terminal: int = 1) -> bytes:
    """Record `number`: its items are number * 100 + 1, + 2, …, so that every value tells where it comes from."""
    steps = range(1, length + 1)

    def ints(*values: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def floats(*values: float) -> Any:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def text(value: str) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    features = {
        "user_id": text(f"u{number}"),
        "session_id": text(session or f"s{number}"),
        "item_id": ints(*(number * 100 + t for t in steps)),
        "feedback": ints(*(t % 2 for t in steps)),
        "timestamp": ints(*steps),
        "reward": floats(*(t / 2 for t in steps)),
        "return_to_go": floats(*(t / 4 for t in steps)),
        "num_context": ints(num_context),
        "is_terminal": ints(is_terminal),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return serialized


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(*shards: list[bytes], split: str = "train") -> list[str]:
        folder = tmp_path / f"Split-{split}"
        folder.mkdir()
        for number, records in enumerate(shards):
            path = folder / f"data_tfrecord-{number:05d}-of-{len(shards):05d}.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for record in records:
                    writer.write(record)
        return trajectory_io.shard_files(Artifact(tmp_path, {}), split)

    return run


LENGTHS = {number: 1 + number * 7 % 9 for number in range(1, 60)}


@pytest.fixture
def files(write: Write) -> list[str]:
    records = [example(number, length) for number, length in LENGTHS.items()]
    return write(records[:20], records[20:21], [], records[21:])


def numbers(batches: Any) -> list[list[int]]:
    """Record numbers of each batch."""
    return [(batch.item_id.numpy()[:, 0] // 100).tolist() for batch in batches]


def test_shards_are_the_gzip_files_of_a_split_in_order(write: Write, tmp_path: Path) -> None:
    files = write([example(1, 2)], [example(2, 2)], [])
    (tmp_path / "Split-train" / ".data_tfrecord-00000-of-00003.gz.123.abc").write_text("left over")
    assert trajectory_io.shard_files(Artifact(tmp_path, {}), "train") == files
    assert [Path(file).name for file in files] == [f"data_tfrecord-0000{n}-of-00003.gz" for n in range(3)]


def test_a_split_without_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Split-train").mkdir()
    with pytest.raises(ArtifactError, match=r"Split-train: no TFRecord files \(\*\.gz\)"):
        trajectory_io.shard_files(Artifact(tmp_path, {}), "train")
    with pytest.raises(ArtifactError, match="no split 'eval'"):
        trajectory_io.shard_files(Artifact(tmp_path, {}), "eval")


def test_a_batch_is_padded_on_the_right_with_zeros(write: Write) -> None:
    files = write([example(1, 3, num_context=1, is_terminal=0), example(2, 1)])
    (batch,) = trajectory_io.ordered_batches(files, 8)
    assert batch.item_id.numpy().tolist() == [[201, 0, 0], [101, 102, 103]]
    assert batch.feedback.numpy().tolist() == [[1, 0, 0], [1, 0, 1]]
    assert batch.reward.numpy().tolist() == [[0.5, 0.0, 0.0], [0.5, 1.0, 1.5]]
    assert batch.return_to_go.numpy().tolist() == [[0.25, 0.0, 0.0], [0.25, 0.5, 0.75]]
    assert batch.length.numpy().tolist() == [1, 3]
    assert batch.num_context.numpy().tolist() == [0, 1]
    assert batch.is_terminal.numpy().tolist() == [1.0, 0.0]
    kinds = {name: getattr(batch, name).dtype.name for name in batch._fields}
    assert kinds == {
        "item_id": "int32",
        "feedback": "int32",
        "reward": "float32",
        "return_to_go": "float32",
        "length": "int32",
        "num_context": "int32",
        "is_terminal": "float32",
        "session": "int64",
        "user": "int64",
    }


def test_records_of_one_session_share_its_hash_and_others_do_not(write: Write) -> None:
    # The last two would be one text if user and session were joined without a separator.
    features = [("a", "s"), ("a", "s"), ("b", "s"), ("a", "t"), ("ab", "c"), ("a", "bc")]
    records = []
    for user, session in features:
        proto = tf.train.Example.FromString(example(1, 2, session=session))
        proto.features.feature["user_id"].bytes_list.value[0] = user.encode()
        records.append(proto.SerializeToString())
    (batch,) = trajectory_io.ordered_batches(write(records), 8)
    first, second, *others = batch.session.numpy().tolist()
    assert first == second
    assert len({first, *others}) == 5
    assert min(first, *others) >= 0


@pytest.mark.parametrize("batch_size", [1, 7, 59, 100])
def test_a_pass_holds_every_record_once(files: list[str], batch_size: int) -> None:
    for batches in (
        trajectory_io.epoch_batches(files, batch_size, seed=3, epoch=0),
        trajectory_io.ordered_batches(files, batch_size),
    ):
        found = [number for batch in numbers(batches) for number in batch]
        assert sorted(found) == sorted(LENGTHS)


def test_a_pass_holds_every_record_once_when_it_is_longer_than_what_is_sorted_together(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectory_io, "_CHUNK_BATCHES", 3)
    for batches in (trajectory_io.epoch_batches(files, 4, seed=3, epoch=0), trajectory_io.ordered_batches(files, 4)):
        found = [number for batch in numbers(batches) for number in batch]
        assert sorted(found) == sorted(LENGTHS)


def test_every_value_stays_with_its_record(files: list[str]) -> None:
    for batch in trajectory_io.epoch_batches(files, 8, seed=1, epoch=2):
        for row, length in enumerate(batch.length.numpy()):
            items = batch.item_id.numpy()[row]
            number = items[0] // 100
            assert LENGTHS[number] == length
            assert items.tolist() == [number * 100 + t if t <= length else 0 for t in range(1, len(items) + 1)]
            assert batch.reward.numpy()[row, :length].tolist() == [t / 2 for t in range(1, length + 1)]
            assert not batch.reward.numpy()[row, length:].any()


def test_sessions_of_like_length_are_batched_together(files: list[str]) -> None:
    steps, real = 0, sum(LENGTHS.values())
    for batch in trajectory_io.epoch_batches(files, 6, seed=0, epoch=0):
        steps += batch.item_id.shape[0] * batch.item_id.shape[1]
    # Nine lengths in ten batches: next to no padding, where random batches have about 9 steps for 5.
    assert steps <= 1.2 * real


def test_steps_are_rounded_up_to_a_multiple(files: list[str]) -> None:
    widths = {int(batch.item_id.shape[1]) for batch in trajectory_io.epoch_batches(files, 6, seed=0, epoch=0, round_steps=4)}
    assert widths <= {4, 8, 12}
    assert len(widths) > 1


def test_seed_and_epoch_decide_the_order(files: list[str]) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return numbers(trajectory_io.epoch_batches(files, 5, seed, epoch))

    assert order(1, 0) == order(1, 0)
    assert len({str(order(*pair)) for pair in ((1, 0), (1, 1), (2, 0), (2, 1))}) == 4


def test_the_order_does_not_depend_on_tensorflows_global_seed(files: list[str]) -> None:
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(numbers(trajectory_io.epoch_batches(files, 5, 0, 0)))
    assert orders[0] == orders[1]


def test_one_pass_iterated_twice_has_one_order(files: list[str]) -> None:
    batches = trajectory_io.epoch_batches(files, 5, 0, 0)
    assert numbers(batches) == numbers(batches)


def test_a_pass_can_be_read_on_from_its_middle(files: list[str]) -> None:
    def batches() -> Any:
        return trajectory_io.epoch_batches(files, 5, seed=4, epoch=1)

    assert numbers(batches().skip(7)) == numbers(batches())[7:]


def test_ordered_batches_are_cut_by_length_and_come_in_an_order_of_their_own(files: list[str]) -> None:
    # Cut from the records in order of length and then of the file; the batches themselves are mixed, always alike.
    by_length = sorted(LENGTHS, key=lambda number: LENGTHS[number])
    cut = [by_length[start : start + 5] for start in range(0, len(by_length), 5)]
    found = numbers(trajectory_io.ordered_batches(files, 5))
    assert sorted(found) == sorted(cut)
    assert found != cut
    assert numbers(trajectory_io.ordered_batches(files, 5)) == found


def test_a_split_without_records_has_no_batches(write: Write) -> None:
    files = write([], [])
    assert numbers(trajectory_io.epoch_batches(files, 5, 0, 0)) == []
    assert numbers(trajectory_io.ordered_batches(files, 5)) == []


def test_targets_and_the_end_of_a_session_follow_from_lengths(write: Write) -> None:
    (batch,) = trajectory_io.ordered_batches(write([example(1, 4, num_context=2), example(2, 3, is_terminal=0)]), 8)
    assert batch.is_target().numpy().tolist() == [[True, True, True, False], [False, False, True, True]]
    np.testing.assert_array_equal(batch.done().numpy(), [[0, 0, 0, 0], [0, 0, 0, 1]])


def test_places_are_those_of_equal_keys() -> None:
    among = np.array([-5, 0, 3, 9])
    assert trajectory_io.places_of(np.array([9, 4, -5, 0, 10, -6, 3]), among).tolist() == [3, -1, 0, 1, -1, -1, 2]
    # What stands in for the end is a key, too.
    assert trajectory_io.places_of(np.array([0, 7]), np.array([-5])).tolist() == [-1, -1]
    assert trajectory_io.places_of(np.array([0, 7]), among[:0]).tolist() == [-1, -1]


def test_users_with_records_are_found_whatever_the_order_of_their_keys(tmp_path: Path) -> None:
    train = [toy.Record([1, 2], session="a", user="anna"), toy.Record([3], session="b", user="cleo")]
    examples = toy.write_examples(tmp_path / "examples", {"train": train, "eval": [toy.Record([1], session="c", user="bo")], "test": []})
    for names in (["anna", "bo", "cleo"], ["cleo", "bo", "anna"]):
        keys = trajectory_io.name_keys(tf.constant(names)).numpy()
        assert trajectory_io.users_with_records(examples, "train", keys).tolist() == [True, False, True]
