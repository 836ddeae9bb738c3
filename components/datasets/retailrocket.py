"""RetailRocket: views, carts and purchases of a shop, in the two layouts it is published in."""

from typing import ClassVar, Literal

from components.datasets.base import PATH_KEY, Columns, DatasetConfig, LogSource, Source, TextFormat, TimestampUnit, as_paths, header_of
from components.datasets.files import list_files
from schemas.config import ConfigError
from schemas.reward import CLICK, PURCHASE, FeedbackRule

_LAYOUTS: dict[str, tuple[Columns, TimestampUnit, tuple[str, str, str]]] = {
    # events.csv as on Kaggle; event names view, addtocart, transaction.
    "kaggle": (
        Columns(user="visitorid", item="itemid", timestamp="timestamp", feedback="event"),
        "milliseconds",
        ("view", "addtocart", "transaction"),
    ),
    # The purchasers' events as multi-behaviour benchmarks publish them; event names view, cart, buy.
    "purchasers": (
        Columns(user="user", item="item", timestamp="timestamp", feedback="event"),
        "seconds",
        ("view", "cart", "buy"),
    ),
}


class RetailRocketConfig(DatasetConfig):
    """The RetailRocket shop; the header line tells which published layout a file has."""

    description: ClassVar[str] = "RetailRocket shop: Kaggle's events.csv, or the purchasers' events"

    name: Literal["retailrocket"] = "retailrocket"
    path: str | tuple[str, ...]
    """events.csv, or files of the same layout."""
    purchases: Literal["carts", "carts_and_transactions", "transactions"] = "carts_and_transactions"
    """What plays the purchase role. `carts` follows Xin et al. (2022): carts are purchases, transactions are left out.
    `carts_and_transactions` counts both. `transactions` counts real purchases only, and a cart as a click."""

    def sources(self) -> tuple[Source, ...]:
        files = list_files(as_paths(self.path), PATH_KEY)
        header = header_of(files[0].path, TextFormat())
        fitting = [layout for layout in _LAYOUTS.values() if set(layout[0].names()) <= set(header) or files[0].num_bytes == 0]
        if not fitting:
            layouts = "; ".join(f"{layout}: {', '.join(columns.names())}" for layout, (columns, _, _) in _LAYOUTS.items())
            raise ConfigError(f"{PATH_KEY}: {files[0].path} has columns {', '.join(header)}; known layouts are {layouts}")
        columns, unit, (view, cart, transaction) = fitting[0]
        rules: dict[str, FeedbackRule] = {view: CLICK}
        rules[cart] = CLICK if self.purchases == "transactions" else PURCHASE
        if self.purchases != "carts":
            rules[transaction] = PURCHASE
        return (
            LogSource(
                paths=as_paths(self.path),
                format="delimited",
                columns=columns,
                timestamp_unit=unit,
                feedback=rules,
                ignored_feedback=() if transaction in rules else (transaction,),
            ),
        )
