"""Taobao UserBehavior: page views, favourites, carts and buys, without a header."""

from typing import ClassVar, Literal

from components.datasets.base import Columns, DatasetConfig, LogSource, Source, TextFormat, as_paths, checked_header
from schemas.reward import CLICK, PURCHASE


class TaobaoConfig(DatasetConfig):
    """The Taobao UserBehavior log (Tianchi data set 649)."""

    description: ClassVar[str] = "Taobao UserBehavior: user, item, category, behaviour, seconds"

    name: Literal["taobao"] = "taobao"
    path: str | tuple[str, ...]
    """UserBehavior.csv, or files of the same layout."""
    carts_are_purchases: bool = True
    """True when carts play the purchase role beside buys; False makes them clicks."""

    def sources(self) -> tuple[Source, ...]:
        source = LogSource(
            paths=as_paths(self.path),
            format="delimited",
            text=TextFormat(header=False, column_names=("user", "item", "category", "behaviour", "timestamp")),
            columns=Columns(user="user", item="item", timestamp="timestamp", feedback="behaviour"),
            timestamp_unit="seconds",
            feedback={"pv": CLICK, "fav": CLICK, "cart": PURCHASE if self.carts_are_purchases else CLICK, "buy": PURCHASE},
        )
        return (checked_header(source),)
