"""A classifier of other classes than the data's, as one of the data's: as a student sees it."""

import torch
from torch import Tensor, nn

from kdcache.models.preprocessing import Preprocessing
from kdcache.models.vision_model import VisionModel
from kdcache.shapes import ClassMap, Logits, Views
from kdcache.soft_targets import DenseTargets
from kdcache.soft_targets.combined import MappedTargets


class MappedModel(nn.Module):
    """A classifier whose probabilities are added up by the data's classes, and brought to a sum
    of 1."""

    def __init__(self, model: VisionModel, classes: ClassMap, num_classes: int) -> None:
        """Take a model, and the map of its classes.

        Args:
            model: the classifier.
            classes: the data's class of each of the model's classes.
            num_classes: of the data.
        """
        super().__init__()
        self.model = model
        self.register_buffer("classes", torch.from_numpy(classes))
        self._num_classes = num_classes

    @property
    def preprocessing(self) -> Preprocessing:
        """What the classifier wants of a view."""
        return self.model.preprocessing

    def forward(self, views: Views) -> Logits:
        """Return the logarithms of the probabilities of the data's classes at temperature 1."""
        logits = self.model(views)
        assert isinstance(self.classes, Tensor)
        mapped = MappedTargets(DenseTargets(logits), self.classes, self._num_classes)
        probabilities = mapped.probs(1.0)
        # of a class that the map does not name it is 0
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
