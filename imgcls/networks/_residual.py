"""What `resnet`, `resnet-v1` and `resnext` have in common: the depths, the first layers and the last.

He et al. 2015, "Deep Residual Learning for Image Recognition": table 1 and, for CIFAR, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.sections import NetworkConfig
from imgcls.errors import UsageError
from imgcls.networks._builder import NetworkBuilder, Value
from imgcls.networks._options import depth_of

IMAGE_SHAPE = (3, 224, 224)
#: attributes of every convolution: no bias; the workspace is memory that MXNet may use, in MB
PLAIN = {"no_bias": True, "extra": {"workspace": "256"}}
#: attributes of every batch normalisation
NORM = {"eps": 2e-5, "momentum": 0.9, "fix_gamma": False}
#: up to this height the stem is one 3x3 convolution that keeps the map's size
SMALL_STEM_HEIGHT = 32
#: depth -> units in each of the four stages, for photographs; 200 and 269 are not in that paper
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
          200: (3, 24, 36, 3), 269: (3, 30, 48, 8)}


@dataclass(frozen=True)
class ResNetSpec:
    """How deep and wide a residual network is."""

    #: units of each stage
    units: tuple[int, ...]
    #: filters of the stem, then of each stage
    filters: tuple[int, ...]
    #: units of three convolutions (1x1, 3x3, 1x1) or two (3x3, 3x3)
    bottleneck: bool


def resnet_spec(config: NetworkConfig, height: int, small_height: int) -> ResNetSpec:
    """Return the stages for `num_layers`; UsageError for a depth that there is not.

    Images up to `small_height` pixels high get three stages, with 110 layers if `num_layers` is not given;
    others get four, with 50.
    """
    if height > small_height:
        depth = depth_of(config, 50, DEPTHS)
        if depth < 50:
            return ResNetSpec(DEPTHS[depth], (64, 64, 128, 256, 512), bottleneck=False)
        return ResNetSpec(DEPTHS[depth], (64, 256, 512, 1024, 2048), bottleneck=True)
    depth = 110 if config.num_layers is None else config.num_layers
    # Stem and classifier are two layers; each unit of three stages has two or, in a bottleneck, three.
    if depth >= 164 and (depth - 2) % 9 == 0:
        return ResNetSpec(((depth - 2) // 9,) * 3, (16, 64, 128, 256), bottleneck=True)
    if 8 <= depth < 164 and (depth - 2) % 6 == 0:
        return ResNetSpec(((depth - 2) // 6,) * 3, (16, 16, 32, 64), bottleneck=False)
    raise UsageError(f"`num_layers` {depth}: {config.network} at a height of {small_height} or less comes "
                     f"with 6n + 2 layers below 164 (20, 32, 56, 110) and with 9n + 2 from there (164, 1001)")


def units(spec: ResNetSpec) -> list[tuple[str, int, int, bool]]:
    """Return (name, filters, stride, is the first of its stage) of every unit, in order.

    The first unit of a stage halves the map, except in stage 1, before which the stem of large images pools.
    """
    stages = enumerate(zip(spec.units, spec.filters[1:], strict=True), start=1)
    return [(f"stage{stage}_unit{unit}", filters, 2 if stage > 1 and unit == 1 else 1, unit == 1)
            for stage, (num_units, filters) in stages for unit in range(1, num_units + 1)]


def stem(net: NetworkBuilder, data: Value, filters: int, *, normalize_small: bool) -> Value:
    """3x3 for small images, alone or with a normalisation; else 7x7 and a pooling that quarter the sides."""
    is_small = data.shape[1] <= SMALL_STEM_HEIGHT
    kernel, stride, pad = (3, 1, 1) if is_small else (7, 2, 3)
    body = net.convolution(data, filters, kernel, stride=stride, pad=pad, name="conv0", **PLAIN)
    if not is_small or normalize_small:
        body = net.batch_norm(body, name="bn0", **NORM)
    return body if is_small else net.pooling(net.relu(body, name="relu0"), 3, "max", stride=2, pad=1)


def classifier(net: NetworkBuilder, data: Value, num_classes: int) -> Value:
    """Average over the whole map, then `fc1`."""
    # A global pooling needs no kernel, but MXNet's file gives one, and a symbol.json shows it.
    body = net.flatten(net.pooling(data, 7, "avg", global_pool=True, name="pool1"))
    return net.fully_connected(body, num_classes, name="fc1")
