"""`whiten`: a first convolution that is computed from the training images and does not learn.

Its filters are the eigenvectors of the patches of the images, scaled so that its outputs are uncorrelated and
of like size, and the same with the opposite sign, which a relu would otherwise drop (Page 2019, "How to train
your ResNet 8: bag of tricks"; Jordan 2024, arXiv 2404.00498, section 3.2). Called by `run` before the first
step.
"""

from __future__ import annotations

import math
from contextlib import closing

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.data.loaders.batch import Loader
from imgcls.distributed.process_group import Worker
from imgcls.errors import UsageError
from imgcls.layers import Convolution

#: images whose patches are looked at: some million patches of small images
_NUM_IMAGES = 5000
#: added to the variance along each direction, as a part of the mean variance: directions that hold hardly
#: more than noise are not made as large as the others
_EPSILON = 5e-4


def whiten(model: nn.Module, loader: Loader, worker: Worker, *, is_new: bool) -> None:
    """Set the first convolution of `model`, on the CPU, from the images of `loader`, and freeze it.

    A network that is not new keeps its weights. UsageError for a network that begins with something else, or
    with more filters than there are directions, for images smaller than a filter, and for workers of
    dist_async.
    """
    if worker.is_async:
        raise UsageError("`whiten`: does not go with `kv_store` dist_async, whose workers see different "
                         "images; take dist_sync")
    convolution = first_convolution(model)
    if is_new:
        moments = _second_moments(convolution, loader, worker)
        with torch.no_grad():
            convolution.weight.copy_(whitening_filters(moments, len(convolution.weight))
                                     .reshape(convolution.weight.shape))
    convolution.weight.requires_grad_(False)


def first_convolution(model: nn.Module) -> Convolution | nn.Conv2d:
    """Return the convolution that sees the images; UsageError where something that learns comes before it."""
    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            if isinstance(module, (Convolution, nn.Conv2d)) and module.groups == 1:
                return module
            raise UsageError(f"`whiten`: is for networks that begin with a convolution, and this one begins "
                             f"with a {type(module).__name__}")
    raise UsageError("`whiten`: this network has no weights")


def whitening_filters(moments: Tensor, num_filters: int) -> Tensor:
    """Return float32 (num_filters, n): directions of the largest moment first, each with its opposite.

    `moments` float64 (n, n) are the second moments of n values. UsageError for more than 2 n filters.
    """
    size = len(moments)
    if num_filters > 2 * size:
        raise UsageError(f"`whiten`: the first convolution has {num_filters} filters of {size} values each, "
                         f"at most {2 * size} can be set")
    variances, vectors = torch.linalg.eigh(moments)
    # the largest first; an eigenvector has no sign of its own, so its largest value gets a plus
    directions = vectors.flip(1).T
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    scale = (variances.flip(0) + _EPSILON * variances.mean()).rsqrt()
    directions = directions * largest.sign() * scale[:, None]
    num_pairs = math.ceil(num_filters / 2)
    return torch.cat([directions[:num_pairs], -directions[:num_filters - num_pairs]]).float()


def _second_moments(convolution: Convolution | nn.Conv2d, loader: Loader, worker: Worker) -> Tensor:
    """Return float64 (n, n): the mean products of the n values that a filter sees, over all processes."""
    kernel = convolution.weight.shape[2:]
    size = convolution.weight[0].numel()
    total = torch.zeros(size, size, dtype=torch.float64)
    num_patches = num_images = 0
    # the images as the network is given them in its first epoch: cut, mirrored and normalised
    with closing(loader.epoch(0)) as batches:  # type: ignore[type-var]
        for batch in batches:
            images = batch.images[:batch.num_valid].float()
            if images.ndim != 4:
                raise UsageError("`whiten`: is for images, and this network takes flat rows")
            if images.shape[2] < kernel[0] or images.shape[3] < kernel[1]:
                # borders are left out here, whatever the convolution pads: no patch would be left
                raise UsageError(f"`whiten`: the filters of {kernel[0]} x {kernel[1]} pixels are larger than "
                                 f"images of {images.shape[2]} x {images.shape[3]}")
            patches = F.unfold(images, kernel).transpose(1, 2).reshape(-1, size)
            # float64: the same sum, whether it is of whole batches or of the parts of several processes
            total += (patches.T @ patches).double().cpu()
            num_patches += len(patches)
            num_images += batch.global_size
            if num_images >= _NUM_IMAGES:
                break
    *sums, count = worker.sum([*total.flatten().tolist(), float(num_patches)])
    return torch.tensor(sums, dtype=torch.float64).reshape(size, size) / count
