"""Every known dataset; a new one is a file with a configuration and a line here."""

from typing import TYPE_CHECKING, Annotated, Union

import pydantic

from components.datasets.base import DatasetConfig
from components.datasets.delimited import DelimitedConfig
from components.datasets.jsonl import JsonLinesConfig
from components.datasets.parquet import ParquetConfig
from components.datasets.retailrocket import RetailRocketConfig
from components.datasets.session_shop import SessionShopDatasetConfig
from components.datasets.taobao import TaobaoConfig
from components.datasets.yoochoose import YoochooseConfig
from schemas.registry import Registry

DATASETS: Registry[type[DatasetConfig]] = Registry(
    "dataset",
    {
        "delimited": DelimitedConfig,
        "jsonl": JsonLinesConfig,
        "parquet": ParquetConfig,
        "retailrocket": RetailRocketConfig,
        "session_shop": SessionShopDatasetConfig,
        "taobao": TaobaoConfig,
        "yoochoose": YoochooseConfig,
    },
)

if TYPE_CHECKING:
    AnyDataset = DatasetConfig
else:
    AnyDataset = Annotated[Union[tuple(DATASETS.values())], pydantic.Field(discriminator="name")]
