"""Yoochoose (RecSys Challenge 2015): clicks and buys in two files without headers."""

from typing import ClassVar, Literal

from components.datasets.base import Columns, DatasetConfig, LogSource, Source, TextFormat, as_paths, checked_header
from schemas.reward import CLICK, PURCHASE


class YoochooseConfig(DatasetConfig):
    """The Yoochoose log; a session is also the user, because the log has no other."""

    description: ClassVar[str] = "Yoochoose (RecSys Challenge 2015): clicks and buys files"

    name: Literal["yoochoose"] = "yoochoose"
    clicks: str | tuple[str, ...]
    """yoochoose-clicks.dat: session, timestamp, item, category."""
    buys: str | tuple[str, ...]
    """yoochoose-buys.dat: session, timestamp, item, price, quantity."""

    def sources(self) -> tuple[Source, ...]:
        columns = Columns(user="session", session="session", item="item", timestamp="timestamp")
        clicks = LogSource(
            paths=as_paths(self.clicks),
            key="trajectory_gen.dataset.clicks",
            format="delimited",
            text=TextFormat(header=False, column_names=("session", "timestamp", "item", "category")),
            columns=columns,
            timestamp_unit="iso8601",
            feedback={"click": CLICK},
        )
        buys = LogSource(
            paths=as_paths(self.buys),
            key="trajectory_gen.dataset.buys",
            format="delimited",
            text=TextFormat(header=False, column_names=("session", "timestamp", "item", "price", "quantity")),
            columns=columns,
            timestamp_unit="iso8601",
            feedback={"buy": PURCHASE},
        )
        return (checked_header(clicks), checked_header(buys))
