"""OverFeat, the winner of ILSVRC 2013's localisation (Sermanet et al. 2013, "OverFeat: Integrated
Recognition, Localization and Detection using Convolutional Networks"), the classifier part.

`--variant fast` is the paper's table 1 and the network of soumith/imagenet-multiGPU.torch; `--variant
accurate` its table 3. The paper gives them 231 and 221 pixels, the Torch code 224; dropout comes before the
hidden layers, as there. MXNet has no such file: the names are ours.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder
from imgcls.networks._options import variant_of

IMAGE_SHAPE = (3, 231, 231)
OPTIONS = ("variant",)
#: filters, kernel, stride, pad of each convolution; the window and the step of the pooling after it, 0: none
CONVOLUTIONS = {
    "fast": ((96, 11, 4, 0, 2), (256, 5, 1, 0, 2), (512, 3, 1, 1, 0), (1024, 3, 1, 1, 0), (1024, 3, 1, 1, 2)),
    "accurate": ((96, 7, 2, 0, 3), (256, 7, 1, 0, 2), (512, 3, 1, 1, 0), (512, 3, 1, 1, 0),
                 (1024, 3, 1, 1, 0), (1024, 3, 1, 1, 3)),
}
HIDDEN = {"fast": (3072, 4096), "accurate": (4096, 4096)}


def build(config: NetworkConfig) -> nn.Module:
    variant = variant_of(config, CONVOLUTIONS)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = net.data
    for number, (filters, kernel, stride, pad, pool) in enumerate(CONVOLUTIONS[variant], start=1):
        body = net.convolution(body, filters, kernel, stride=stride, pad=pad, name=f"conv{number}")
        body = net.relu(body, name=f"relu{number}")
        if pool:
            body = net.pooling(body, pool, "max", stride=pool, name=f"pool{number}")
    body = net.flatten(body, name="flatten")
    layers = len(CONVOLUTIONS[variant]) + len(HIDDEN[variant])
    for number, units in enumerate(HIDDEN[variant], start=len(CONVOLUTIONS[variant]) + 1):
        body = net.fully_connected(net.dropout(body, 0.5, name=f"drop{number}"), units, name=f"fc{number}")
        body = net.relu(body, name=f"relu{number}")
    return net.module(net.fully_connected(body, config.num_classes, name=f"fc{layers + 1}"))
