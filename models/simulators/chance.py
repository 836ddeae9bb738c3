"""Chance that depends on seed, session, turn and purpose alone, for any number of sessions at once.

A number is the image of its place under a block cipher, so it needs no state: sessions may run in any order, beside any others, or
be played again from the middle, and the same thing happens to them. Policies that are compared on the same seed meet the same
chance (common random numbers).

References:
    Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3; Philox4x32 with 10 rounds.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

BEGIN, STEP, POLICY, NOISE = 0, 1, 2, 3
"""What chance decides: how a session begins, what comes of an action, what a policy draws, what is done to the reward of a logged event."""

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four 32-bit words for every counter of four 32-bit words; the arrays broadcast."""
    first, second, third, fourth = counter
    left, right = key
    for _ in range(_ROUNDS):
        product, other = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first = (other >> _HALF) ^ second ^ np.uint64(left)
        third = (product >> _HALF) ^ fourth ^ np.uint64(right)
        second, fourth = other & _LOW, product & _LOW
        left, right = (left + _KEY_STEPS[0]) & 0xFFFFFFFF, (right + _KEY_STEPS[1]) & 0xFFFFFFFF
    return first, second, third, fourth


class Chance:
    """The chance of one seed.

    Args:
        seed: From 0 to 2 ** 64 - 1.

    Raises:
        ValueError: The seed is outside.
    """

    def __init__(self, seed: int):
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed lies between 0 and 2 ** 64 - 1, found {seed}")
        self._key = (seed & 0xFFFFFFFF, seed >> 32)

    def uniform(self, purpose: int, session: Ints, turn: Ints | int, count: int) -> Floats:
        """Numbers in [0, 1) with 53 bits.

        Args:
            purpose: One of `BEGIN`, `STEP`, `POLICY`, `NOISE`.
            session: [B] number of each session.
            turn: [B] or one for all: steps of the session so far.
            count: How many for each session.

        Returns:
            [B, count]
        """
        block = np.arange((count + 1) // 2, dtype=np.uint64)[None, :] | np.uint64(purpose << 16)
        number = session.astype(np.uint64)[:, None]
        steps = np.broadcast_to(np.asarray(turn, np.uint64), session.shape)[:, None]
        words = philox((block, steps, number & _LOW, number >> _HALF), self._key)
        drawn = np.empty((len(session), block.shape[1], 2))
        drawn[:, :, 0], drawn[:, :, 1] = _as_float(words[0], words[1]), _as_float(words[2], words[3])
        return drawn.reshape(len(session), 2 * block.shape[1])[:, :count]


def _as_float(high: Words, low: Words) -> Floats:
    bits = ((high >> np.uint64(5)) << np.uint64(26)) | (low >> np.uint64(6))
    return bits * 2.0**-53
