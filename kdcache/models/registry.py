"""The families of models, by the name that a spec begins with; a library is imported with the first
of its models."""

from kdcache.deferred import late
from kdcache.models.building import Family
from kdcache.models.library_names import check_timm, check_torchvision
from kdcache.targets import ClassBoxes, ClassLabel, ClassMask

FAMILIES: dict[str, Family] = {
    "cifar": Family(
        {ClassLabel.task: late("kdcache.models.cifar:build_classifier")},
        check=late("kdcache.models.cifar:check"),
    ),
    "timm": Family(
        {
            ClassLabel.task: late("kdcache.models.timm:build_classifier"),
            ClassMask.task: late("kdcache.models.timm:build_segmenter"),
        },
        check=late("kdcache.models.timm:check"),
        check_name=check_timm,
    ),
    "torchvision": Family(
        {
            ClassLabel.task: late("kdcache.models.torchvision:build_classifier"),
            ClassMask.task: late("kdcache.models.torchvision:build_segmenter"),
            ClassBoxes.task: late("kdcache.models.torchvision:build_detector"),
        },
        check=late("kdcache.models.torchvision:check"),
        check_name=check_torchvision,
        has_named_weights=True,
    ),
    "transformers": Family(
        {
            ClassLabel.task: late("kdcache.models.transformers:build_classifier"),
            ClassMask.task: late("kdcache.models.transformers:build_segmenter"),
        },
        check=late("kdcache.models.transformers:check"),
        is_pretrained=True,
    ),
}
