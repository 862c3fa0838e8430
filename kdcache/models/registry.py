"""The families of models, by the name that a spec begins with."""

from collections.abc import Mapping

from kdcache.models.building import Family
from kdcache.models.timm import TIMM
from kdcache.models.torchvision import TORCHVISION
from kdcache.models.transformers import TRANSFORMERS

FAMILIES: Mapping[str, Family] = {
    "timm": TIMM,
    "torchvision": TORCHVISION,
    "transformers": TRANSFORMERS,
}
