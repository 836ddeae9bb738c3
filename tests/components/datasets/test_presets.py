"""Published logs with known layouts: RetailRocket, Yoochoose, Taobao."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.base import ComponentError
from components.datasets.retailrocket import RetailRocketConfig
from components.datasets.taobao import TaobaoConfig
from components.datasets.yoochoose import YoochooseConfig
from schemas.config import ConfigError

Read = Callable[..., Any]
Write = Callable[..., Path]

KAGGLE = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,addtocart,248676,
1433221999827,111016,transaction,318965,5
"""
PURCHASERS = """user,item,event,timestamp
0,3,view,1433221969
0,1,cart,1433222104
7,1,buy,1433222105
"""


@pytest.mark.parametrize(
    ("purchases", "rewards"),
    [
        ("carts", [(0, 0.2), (1, 1.0)]),
        ("carts_and_transactions", [(0, 0.2), (1, 1.0), (1, 1.0)]),
        ("transactions", [(0, 0.2), (0, 0.2), (1, 1.0)]),
    ],
)
@pytest.mark.parametrize("content", [KAGGLE, PURCHASERS], ids=["kaggle", "purchasers"])
def test_retailrocket_knows_three_meanings_of_a_purchase(
    write: Write, read: Read, content: str, purchases: Any, rewards: list[tuple[int, float]]
) -> None:
    outcome = read(RetailRocketConfig(path=str(write("events.csv", content)), purchases=purchases))
    assert [row[4:6] for row in outcome.rows] == rewards
    assert outcome.ignored == 3 - len(rewards)
    assert outcome.bad == []


def test_retailrocket_reads_each_layout_in_its_unit(write: Write, read: Read) -> None:
    kaggle = read(RetailRocketConfig(path=str(write("events.csv", KAGGLE))))
    assert kaggle.rows[0] == ("257597", None, "355908", 1433221332117000, 0, 0.2, None)
    purchasers = read(RetailRocketConfig(path=str(write("purchasers.csv", PURCHASERS))))
    assert purchasers.rows[0] == ("0", None, "3", 1433221969000000, 0, 0.2, None)


def test_retailrocket_with_other_columns_is_an_error_that_lists_the_known_layouts(write: Write) -> None:
    config = RetailRocketConfig(path=str(write("events.csv", "a,b\n1,2\n")))
    with pytest.raises(ConfigError) as caught:
        config.sources()
    assert "events.csv has columns a, b; known layouts are kaggle: visitorid, itemid, timestamp, event; purchasers: user" in str(
        caught.value
    )


def test_an_empty_retailrocket_file_is_an_error_that_names_it(write: Write, read: Read) -> None:
    with pytest.raises(ComponentError, match=r"events\.csv: the file is empty"):
        read(RetailRocketConfig(path=str(write("events.csv", ""))))


def test_yoochoose_reads_clicks_and_buys_of_one_session_from_two_files(write: Write, read: Read) -> None:
    clicks = write("yoochoose-clicks.dat", "1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n")
    buys = write("yoochoose-buys.dat", "1,2014-04-07T10:54:09.868Z,214536502,12462,1\n")
    outcome = read(YoochooseConfig(clicks=str(clicks), buys=str(buys)))
    # 2014-04-07T10:51:09Z is 1396867869.
    assert outcome.rows == [
        ("1", "1", "214536502", 1396867869_277_000, 0, 0.2, None),
        ("2", "2", "214662742", 1396878997_614_000, 0, 0.2, None),
        ("1", "1", "214536502", 1396868049_868_000, 1, 1.0, None),
    ]
    assert outcome.bad == []


def test_a_buys_file_in_the_place_of_the_clicks_file_is_quarantined_by_its_columns(write: Write, read: Read) -> None:
    buys = write("buys.dat", "1,2014-04-07T10:54:09.868Z,214536502,12462,1\n")
    outcome = read(YoochooseConfig(clicks=str(buys), buys=str(buys)))
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [(1, "5 columns, expected 4")]


TAOBAO = """1,2268318,2520377,pv,1511544070
1,2333346,2520771,fav,1511561733
1,2576651,149192,cart,1511572885
1,3830808,4181361,buy,1511593493
"""


@pytest.mark.parametrize(("carts_are_purchases", "roles"), [(True, [0, 0, 1, 1]), (False, [0, 0, 0, 1])])
def test_taobao_maps_four_behaviours(write: Write, read: Read, carts_are_purchases: bool, roles: list[int]) -> None:
    outcome = read(TaobaoConfig(path=str(write("UserBehavior.csv", TAOBAO)), carts_are_purchases=carts_are_purchases))
    assert [row[4] for row in outcome.rows] == roles
    assert outcome.rows[0][:4] == ("1", None, "2268318", 1511544070_000_000)


@pytest.mark.data
def test_the_published_retailrocket_files_have_the_published_numbers_of_events(data_folder: Path, read: Read) -> None:
    folder = data_folder / "retailrocket"
    purchasers = read(RetailRocketConfig(path=str(folder / "purchasers.csv.gz")))
    # 75,374 views, 12,456 carts and 9,551 purchases of 29,905 items by 2,174 users.
    assert (purchasers.rows_read, purchasers.bad) == (97_381, [])
    assert [sum(row[4] == role for row in purchasers.rows) for role in (0, 1)] == [75_374, 12_456 + 9_551]
    assert len({row[2] for row in purchasers.rows}) == 29_905
    assert len({row[0] for row in purchasers.rows}) == 2_174
    kaggle = read(RetailRocketConfig(path=str(folder / "kaggle_sample.csv"), purchases="transactions"))
    assert (kaggle.rows_read, kaggle.bad) == (9_385, [])
    assert [sum(row[4] == role for row in kaggle.rows) for role in (0, 1)] == [9_076 + 263, 46]


@pytest.mark.data
def test_the_published_taobao_sample_has_the_published_numbers_of_events(data_folder: Path, read: Read) -> None:
    outcome = read(TaobaoConfig(path=str(data_folder / "taobao_user_behavior" / "histories.csv.gz")))
    assert (outcome.rows_read, outcome.bad) == (14_321, [])
    assert [sum(row[4] == role for row in outcome.rows) for role in (0, 1)] == [12_972 + 340, 726 + 283]
    assert len({row[0] for row in outcome.rows}) == 157
