"""A read-only table of names whose miss names what is known."""

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(KeyError):
    """A name that a registry does not hold; the message lists what it does."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a message reads better as it is.
        return str(self.args[0])


class Registry(Mapping[str, T]):
    """An immutable mapping from names to entries of one kind.

    Args:
        kind: What an entry is, for messages ("algorithm", "dataset").
        entries: Name to entry, a literal dict of real imports.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]):
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}{suggestion(name, self._entries)}; known: {', '.join(sorted(self._entries))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        # Mapping's own version would build the message of a miss first.
        return name in self._entries


def suggestion(found: str, known: Mapping[str, object] | list[str]) -> str:
    """Returns " (did you mean 'x'?)" for a near miss, else an empty string."""
    close = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
