"""MXNet's SpatialTransformer, which `--network lenet --add-stn` uses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from imgcls.layers.base import Layer, OpSpec, to_attrs


class SpatialTransformer(Layer):
    """Samples the image under an affine map, (N, C, H, W) and (N, 6) -> (N, C, *target_shape).

    Jaderberg et al. 2015, "Spatial Transformer Networks". Borders are zero and corners aligned, as in MXNet.
    """

    op = "SpatialTransformer"
    num_inputs = 2

    def __init__(self, target_shape: tuple[int, int], extra: dict[str, str] | None = None) -> None:
        super().__init__(to_attrs(target_shape=target_shape, transform_type="affine", sampler_type="bilinear")
                         | (extra or {}))
        self.target_shape = target_shape  # height, width

    @classmethod
    def read(cls, spec: OpSpec) -> Layer:
        spec.ignore("cudnn_off")
        spec.choice("transform_type", "", ("affine",))  # MXNet 1.9.1 has no other
        spec.choice("sampler_type", "", ("bilinear",))
        return cls(spec.pair("target_shape", 0))

    def forward(self, data: Tensor, loc: Tensor) -> Tensor:
        size = (data.shape[0], data.shape[1], *self.target_shape)
        # align_corners: -1 and 1 are the centres of the corner pixels, which is not torch's default
        grid = F.affine_grid(loc.reshape(-1, 2, 3), list(size), align_corners=True)
        return F.grid_sample(data, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
