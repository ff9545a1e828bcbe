"""Knowledge distillation (Hinton, Vinyals and Dean 2015): the outputs of a trained network as soft labels.

The teacher sees the same augmented and mixed images as the student (Beyer et al. 2022: "a good teacher is
patient and consistent"), in its own normalisation and size. Called by the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.config.sections import DistillationConfig
from imgcls.training.precision import Precision


class Teacher:
    """A trained network on the device, frozen and in evaluation mode."""

    def __init__(self, model: nn.Module, config: DistillationConfig, precision: Precision, *, scale: Tensor,
                 shift: Tensor, size: Sequence[int] | None, order: Tensor | None) -> None:
        """Images x of the run are the teacher's as x * scale + shift, (C, 1, 1), resized to `size` (H, W).

        Flat rows have no size. `order` int64 (classes,) is the teacher's index of each class of the run; None
        if both agree.
        """
        self.alpha = config.distillation_alpha
        # in evaluation mode: batch statistics and dropout would make the targets depend on the batch
        self._model = model.eval().requires_grad_(False)
        self._temperature = config.distillation_temperature
        self._precision = precision
        self._scale = scale
        self._shift = shift
        self._size = size
        self._order = order

    def divergence(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return T^2 times the Kullback-Leibler divergence from the teacher's outputs, summed over samples.

        `logits` float32 (n, classes) are the student's for `images` (n, C, H, W); T is the temperature. The
        factor T^2 keeps the gradients about as large as those of the labels.
        """
        # no graph is kept: the teacher takes the memory of a validation, not of training
        with torch.no_grad(), self._precision.autocast():
            # one product and one sum undo the run's normalisation and apply the teacher's
            images = images * self._scale + self._shift
            # each batch is looked at: images of the run may begin smaller and grow
            if self._size and tuple(images.shape[2:]) != tuple(self._size):
                # antialiased: a student of 64 pixels may have a teacher of 224, and the other way round
                images = F.interpolate(images, self._size, mode="bilinear", antialias=True)
            # float32 before the softmax: differences of small probabilities are what is learnt, and
            # bfloat16 has three digits
            teacher_logits = self._model(images).float()
        if self._order is not None:
            # classes are matched by name: the teacher may number them otherwise, or have more of them
            teacher_logits = teacher_logits[:, self._order]
        # both in logarithms: a probability that underflows to 0 would make 0 x -inf of it
        divergence = F.kl_div(F.log_softmax(logits / self._temperature, 1),
                              F.log_softmax(teacher_logits / self._temperature, 1), reduction="sum",
                              log_target=True)
        return divergence * self._temperature ** 2
