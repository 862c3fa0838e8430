"""Samples of a source as a webdataset store holds them."""

from collections.abc import Sequence

import numpy as np

from kdcache.cache.formats.protocol import StoredSample
from kdcache.errors import UnreadableSampleError
from kdcache.shapes import Rows
from kdcache.sources import Source, stored_image, stored_target


def stored_samples(
    source: Source, indices: Rows, labels: Sequence[int] | Rows, *, has_images: bool | np.ndarray
) -> list[StoredSample]:
    """Return the samples of a source as a webdataset store holds them; of an unreadable one the
    name only.

    Args:
        source: the source.
        indices: of the samples.
        labels: of the samples; -1 where it is not known.
        has_images: whether the store holds the images, or those of which samples.
    """
    images = np.broadcast_to(has_images, len(indices))
    samples = []
    for index, label, has_image in zip(indices.tolist(), labels, images.tolist(), strict=True):
        samples.append(_stored_sample(source, index, int(label), has_image))
    return samples


def _stored_sample(source: Source, index: int, label: int, has_image: bool) -> StoredSample:
    key = source.key(index)
    if not has_image:
        return StoredSample(key)
    known_label = None
    if label >= 0:
        known_label = label
    try:
        extension, image = stored_image(source, index)
        target = stored_target(source, index, known=known_label)
    except UnreadableSampleError:
        return StoredSample(key)
    return StoredSample(key, extension, image, target)
