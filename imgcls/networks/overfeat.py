"""OverFeat, the winner of ILSVRC 2013's localisation: the classifier part.

Sermanet et al. 2013, "OverFeat: Integrated Recognition, Localization and Detection using Convolutional
Networks". `--variant fast` is the paper's table 1 and the network of soumith/imagenet-multiGPU.torch;
`--variant accurate` its table 3. The paper gives them 231 and 221 pixels, the Torch code 224; dropout comes
before the hidden layers, as there. MXNet has no such file: the names are ours.
"""

from __future__ import annotations

from torch import nn

from imgcls.config.sections import NetworkConfig
from imgcls.networks._builder import NetworkBuilder
from imgcls.networks._options import variant_of

IMAGE_SHAPE = (3, 231, 231)
OPTIONS = ("variant",)
#: filters, kernel, stride, pad of each convolution; the window and the step of the pooling behind it, 0: none
CONVOLUTIONS = {
    "fast": ((96, 11, 4, 0, 2), (256, 5, 1, 0, 2), (512, 3, 1, 1, 0), (1024, 3, 1, 1, 0), (1024, 3, 1, 1, 2)),
    "accurate": ((96, 7, 2, 0, 3), (256, 7, 1, 0, 2), (512, 3, 1, 1, 0), (512, 3, 1, 1, 0),
                 (1024, 3, 1, 1, 0), (1024, 3, 1, 1, 3)),
}
#: units of the two hidden layers
HIDDEN = {"fast": (3072, 4096), "accurate": (4096, 4096)}


def build(config: NetworkConfig) -> nn.Module:
    """Return the network: float (N, *image_shape) -> logits (N, num_classes)."""
    variant = variant_of(config, CONVOLUTIONS)
    net = NetworkBuilder(config, IMAGE_SHAPE, OPTIONS)
    body = net.data
    # fast: 28, 12 and 6 pixels behind the poolings; accurate: 36, 15 and 5
    for number, (filters, kernel, stride, pad, pool) in enumerate(CONVOLUTIONS[variant], start=1):
        body = net.convolution(body, filters, kernel, stride=stride, pad=pad, name=f"conv{number}")
        body = net.relu(body, name=f"relu{number}")
        if pool:  # windows that do not overlap, unlike AlexNet's
            body = net.pooling(body, pool, "max", stride=pool, name=f"pool{number}")
    body = net.flatten(body, name="flatten")
    # Numbers continue where the convolutions end: fc6, fc7 and fc8, or fc7, fc8 and fc9.
    first_hidden = len(CONVOLUTIONS[variant]) + 1
    for number, units in enumerate(HIDDEN[variant], start=first_hidden):
        body = net.fully_connected(net.dropout(body, 0.5, name=f"drop{number}"), units, name=f"fc{number}")
        body = net.relu(body, name=f"relu{number}")
    classifier = first_hidden + len(HIDDEN[variant])
    return net.module(net.fully_connected(body, config.num_classes, name=f"fc{classifier}"))
