"""Every backbone; a new one is a file and a line here."""

from typing import TYPE_CHECKING, Annotated, Union

import pydantic

from models.backbones.base import Backbone, BackboneConfig
from models.backbones.caser import Caser
from models.backbones.gru4rec import GRU4Rec
from models.backbones.nextitnet import NextItNet
from models.backbones.sasrec import SASRec
from schemas.registry import Registry

BACKBONES: Registry[type[Backbone]] = Registry("backbone", {"sasrec": SASRec, "gru4rec": GRU4Rec, "caser": Caser, "nextitnet": NextItNet})

if TYPE_CHECKING:
    AnyBackbone = BackboneConfig
else:
    AnyBackbone = Annotated[Union[tuple(backbone.config_class for backbone in BACKBONES.values())], pydantic.Field(discriminator="name")]
