"""Every estimator; a new one is a class and a line here."""

from models.ope.bandit import DR, IPS, SNDR, SNIPS, ClippedIPS, DirectMethod, OptimisticShrinkageDR, SubGaussianDR, SubGaussianIPS, SwitchDR
from models.ope.base import Estimator
from models.ope.magic import MAGIC
from models.ope.sequential import PDIS, SNPDIS, SNTIS, TIS, WDR, SequentialDR
from schemas.registry import Registry

ESTIMATORS: Registry[type[Estimator]] = Registry(
    "estimator",
    {
        "ips": IPS,
        "clipped_ips": ClippedIPS,
        "snips": SNIPS,
        "dm": DirectMethod,
        "dr": DR,
        "sndr": SNDR,
        "switch_dr": SwitchDR,
        "dr_os": OptimisticShrinkageDR,
        "sub_gaussian_ips": SubGaussianIPS,
        "sub_gaussian_dr": SubGaussianDR,
        "tis": TIS,
        "sntis": SNTIS,
        "pdis": PDIS,
        "snpdis": SNPDIS,
        "sequential_dr": SequentialDR,
        "wdr": WDR,
        "magic": MAGIC,
    },
)
