"""The network of an export as a torch module: exports are scored and predict as checkpoints do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgcls.data.normalize import per_channel
from imgcls.errors import DataError, UsageError, verbatim
from imgcls.formats import json_text
from imgcls.inference.export.exported import Description


class ExportedNetwork(nn.Module):
    """float32 (N, C, H, W), normalised as the description says, -> logarithms of probabilities (N, classes).

    It computes on the CPU, wherever the images are. A file that prepares pixels itself is given the bytes of
    the crop, padded so that its own resizing and cropping change nothing.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], description: Description, path: str) -> None:
        """`run` is a format's Runner.run.

        DataError where the description does not say how pixels are prepared, UsageError where that cannot be
        undone.
        """
        super().__init__()
        self._run = run
        self._description = description
        self.path = path
        # stays empty where the file is given normalised images, as a checkpoint's network is
        self._frame: Sequence[int] = ()
        if description.takes_pixels:
            num_channels = description.image_shape[0]
            noted = description.preprocessing
            self._frame = _frame(description, path)
            self._mean, self._std = (_colour(noted.get(name), num_channels, path) for name in ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float32:
            raise UsageError(f"`dtype`: {verbatim(self.path)} is an export, which computes as it was written")
        # the runtimes compute on the CPU
        given = images.detach().cpu()
        if self._frame:
            given = self._pixels(given)
        probabilities = self._run(given.contiguous().numpy())
        if probabilities.shape != (len(images), self._description.num_classes):
            raise DataError(self.path, f"gives {probabilities.shape}, not a number for each of its "
                                        f"{self._description.num_classes} classes")
        # Logits, whose softmax gives the same probabilities to the caller. Not log(0): a loss would be
        # infinite.
        smallest = torch.finfo(torch.float32).tiny
        return torch.from_numpy(probabilities).clamp(min=smallest).log().to(images.device)

    def _pixels(self, images: Tensor) -> Tensor:
        """Return the bytes before normalisation, uint8 (N, H, W, C), in the middle of the frame."""
        # back to bytes: exact, since the images were bytes, and float32 errs by far less than half of one
        pixels = (images * self._std + self._mean).round().clamp(0, 255)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)  # the luma of three equal numbers is that number
        free = [frame - size for frame, size in zip(self._frame, pixels.shape[2:], strict=True)]
        # in the middle, where the file's own centre crop cuts it out again
        top, left = (size // 2 for size in free)
        pixels = F.pad(pixels, (left, free[1] - left, top, free[0] - top))
        return pixels.permute(0, 2, 3, 1).to(torch.uint8)


def require_layers(model: nn.Module, setting: str) -> None:
    """Raise UsageError where `model` is an export, since `setting` needs the layers of a network."""
    if isinstance(model, ExportedNetwork):
        raise UsageError(f"`{setting}`: {verbatim(model.path)} is an export, which gives probabilities and "
                         "nothing of its layers: take the checkpoint, or an export as safetensors")


def _colour(noted: object, num_channels: int, path: str) -> Tensor:
    """Return float32 (C, 1, 1) of a list with one number, or one for each channel; DataError for others."""
    numbers = noted if isinstance(noted, list) and json_text.is_list(noted, json_text.is_number) else ()
    try:
        return torch.tensor(per_channel(tuple(numbers), num_channels, "`rgb_mean`"))[:, None, None]
    except UsageError as error:
        raise DataError(path, "its description has no mean and std of its images") from error


def _frame(description: Description, path: str) -> tuple[int, int]:
    """Return the size (H, W) at which an image is not resized, and from whose middle the crop is cut."""
    height, width = description.image_shape[1:]
    edge = description.preprocessing.get("val_resize")
    if not json_text.is_count(edge):
        raise DataError(path, "its description does not say whether it resizes images (`val_resize`)")
    if edge and edge < min(height, width):
        raise UsageError(f"`model` {verbatim(path)}: it resizes images twice ({edge} is smaller than the "
                         "crop), which only the file itself can do: take the checkpoint")
    # Its short edge already has the length that images are resized to.
    return (max(height, edge), max(width, edge)) if edge else (height, width)
