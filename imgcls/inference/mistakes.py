"""The most confident mistakes of a network, as pictures: its input, and where in it the network looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from imgcls.config.resolve import Config
from imgcls.config.sections import AugmentConfig
from imgcls.data.loaders.batch import Loader
from imgcls.data.loaders.make import make_loader
from imgcls.data.loaders.resident import ResidentLoader
from imgcls.data.loaders.streaming import StreamingLoader
from imgcls.data.normalize import per_channel
from imgcls.data.sources import ArraySource, Source
from imgcls.errors import DataError
from imgcls.inference.explain import grad_cam, overlaid
from imgcls.inference.export.exported_network import ExportedNetwork
from imgcls.report import pictures
from imgcls.report.sheet import read_original
from imgcls.report.statistics import Predictions
from imgcls.report.svg import escape

#: how many are shown
MAX_MISTAKES = 24


@dataclass(frozen=True)
class Mistake:
    """An image with its label and the predicted class; its pictures are uint8 (H, W, C), RGB or grey."""

    label: str
    predicted: str
    confidence: float
    label_probability: float
    #: the network's input, coloured where it speaks for the predicted class
    looked_at: np.ndarray
    original: np.ndarray | None
    #: whether `looked_at` has these colours: an export has no gradients to compute them from
    is_explained: bool = True


class _Subset:
    """Some samples of a source, as a source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, indices
        self.labels = np.asarray(source.labels)[list(indices)]
        self.class_names = source.class_names
        self.description = source.description

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> bytes | memoryview | np.ndarray:
        """Return sample `index` of the subset."""
        return self._source.read(self._indices[index])

    def problem(self, index: int, reason: str) -> DataError:
        """Return the error that names the sample in its source."""
        return self._source.problem(self._indices[index], reason)


def find_mistakes(model: nn.Module, source: Source, loader: Loader, config: Config, augment: AugmentConfig,
                  predictions: Predictions, names: Sequence[str], device: torch.device) -> list[Mistake]:
    """Return the most confident mistakes, at most `MAX_MISTAKES`.

    `loader` is the one that was scored with, `augment` its settings. [] where the data are no pictures.
    """
    shape = config.network.image_shape
    # positions among the scored samples, from which damaged images were left out
    positions = predictions.mistakes(MAX_MISTAKES)
    indices = scored_indices(source, loader)[positions].tolist()
    if not indices or len(shape) != 3 or shape[0] not in (1, 3, 4):
        return []
    subset: Source = _Subset(source, indices)
    if isinstance(source, ArraySource):  # the loader of arrays takes no other source
        subset = dataclasses.replace(source, images=np.take(source.images, indices, 0),
                                     labels=np.take(source.labels, indices, 0))
    # prepared once more, as they were for the score: nothing is random in validation
    again = make_loader(subset, batch_size=len(indices), image_shape=shape, augment_config=augment,
                        train=False, seed=0, device=device, threads=0, on_bad=config.data.on_bad)
    images = next(iter(again.epoch(0))).images
    # the heat is that of the predicted class, and not of the right one
    predicted = torch.from_numpy(predictions.predicted[positions]).to(device)
    is_explained = not isinstance(model, ExportedNetwork)  # which has no gradients
    heat = grad_cam(model, images, predicted) if is_explained else None
    if (heat is None and is_explained) or len(images) != len(indices):
        return []
    shown = _pixels(images, augment, shape[0])
    looked_at = shown if heat is None else map(overlaid, shown, heat.cpu().numpy())
    return [Mistake(names[int(predictions.labels[position])], names[int(predictions.predicted[position])],
                    float(predictions.confidence[position]), float(predictions.label_probability[position]),
                    pixels, _original(source, index, shape[0]), is_explained)
            for position, index, pixels in zip(positions.tolist(), indices, looked_at, strict=True)]


def as_html(mistakes: Sequence[Mistake]) -> str:
    """Return the mistakes as a part of a page."""
    if not mistakes:
        return ""
    figures, num_left_out = pictures.gallery(mistakes, _figure)
    # of large pictures only the first are shown, which are the most confident
    remark = f" {num_left_out} more would make this page too large." if num_left_out else ""
    explained = ", yellow where it found the predicted class (Grad-CAM)"
    return ('<h2>Most confident mistakes</h2><p class="soft">The original, and the input of the network'
            f"{explained if mistakes[0].is_explained else ''}.{remark}</p>{figures}")


def as_png(mistakes: Sequence[Mistake]) -> bytes:
    """Return the mistakes as one PNG, b"" without any."""
    return pictures.contact_sheet([
        ((mistake.original, mistake.looked_at), (f"{mistake.label}, predicted as", f"{mistake.predicted} "
                                                       f"({mistake.confidence:.4f})"))
        for mistake in mistakes]) if mistakes else b""


def scored_indices(source: Source, loader: Loader) -> np.ndarray:
    """Return int64 (N,): which samples of the source were scored, in order; damaged ones were left out."""
    assert isinstance(loader, StreamingLoader | ResidentLoader)
    return np.setdiff1d(np.arange(len(source)), loader.bad_indices)


def _pixels(images: Tensor, augment: AugmentConfig, num_channels: int) -> np.ndarray:
    """Return normalised images (n, C, H, W) as pictures uint8 (n, H, W, C)."""
    # normalised floats, perhaps on a GPU
    images = images.detach().float().cpu()
    if augment.mean_image:  # the mean of each pixel is not available here: scaled to each image's own range
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-6) * 255
    else:
        mean = torch.tensor(per_channel(augment.rgb_mean, num_channels, "`rgb_mean`"))[:, None, None]
        std = torch.tensor(per_channel(augment.rgb_std, num_channels, "`rgb_std`"))[:, None, None]
        images = images * std + mean
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


# None also where the source has no picture: flat rows, or floats
def _original(source: Source, index: int, num_channels: int) -> np.ndarray | None:
    image = read_original(source, index, num_channels)
    return image if image is not None and image.ndim == 3 and image.dtype == np.uint8 else None


def _figure(mistake: Mistake, extension: str) -> str:
    shown = [] if mistake.original is None else [
        pictures.original(mistake.original, f"{mistake.label}, the original", extension)]
    shown.append(pictures.img(mistake.looked_at, f"where the network saw {mistake.predicted}", ".jpg"))
    label, predicted = (f"<bdi>{escape(name)}</bdi>" for name in (mistake.label, mistake.predicted))
    return (f'<figure><div class="pair">{"".join(shown)}</div><figcaption><b>{label}</b><br/>predicted as '
            f'{predicted} ({mistake.confidence:.4f})<br/><span class="soft">{label}: '
            f"{mistake.label_probability:.4f}</span></figcaption></figure>")
