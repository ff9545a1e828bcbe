"""Which network, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag
from imgcls.config.sections.bounds import MAX_PROCESSES, MAX_SIDE


@dataclass(frozen=True)
class NetworkConfig:
    """Network"""

    network: str = flag("mlp", "the network, a file of imgcls/networks", since="g2", metavar="NAME")
    # options of single networks stand beside those of all; each reads its own (OPTIONS in its file)
    num_layers: int | None = flag(None, "number of layers, for networks of several depths (if not given: vgg "
                                  "11, resnet-28-small 20, other residual ones 50, or 110 for small images)",
                                  since="g2", metavar="N", minimum=1, maximum=2000)
    num_classes: int = flag(10, "classes", since="g2", minimum=2, maximum=10**7)
    image_shape: tuple[int, ...] = flag((1, 28, 28), "channels,height,width of the network's input",
                                        since="g2", metavar="C,H,W",
                                        minimum=1, maximum=MAX_SIDE, counts=(1, 3))
    # the first scripts' square, three channels; `resolve` turns it into image_shape
    data_shape: int = flag(0, "short for --image-shape 3,S,S", since="g1", metavar="S",
                           minimum=0, maximum=MAX_SIDE)
    add_stn: bool = flag(False, "spatial transformer in front (lenet)", since="g2")
    batch_norm: bool = flag(False, "normalise after every convolution (vgg)")
    num_group: int = flag(32, "groups of a bottleneck's 3x3 convolution (resnext)", metavar="N",
                          minimum=1, maximum=4096)
    multiplier: float = flag(1.0, "width of every layer: 0.25, 0.5, 0.75 or 1 (mobilenet), any (mobilenetv2, "
                             "airbench)",
                             metavar="X", minimum=0, maximum=100)
    variant: str = flag("", "variant: fast or accurate (overfeat), torch or theano (alexnet-towers); the "
                        "first if not given", metavar="NAME")
    model_parallel: int = flag(1, "GPUs that each copy of the network is spread over (alexnet-towers: 2)",
                               metavar="N", minimum=1, maximum=MAX_PROCESSES)
    # MXNet's names; default is its rule by the network's name (common/fit.py)
    initializer: str = flag("default", "initialization of the weights", since="g3", choices=(
        "default", "xavier", "msra", "orthogonal", "normal", "uniform", "one", "zero", "dirac"))
    whiten: bool = flag(False, "set the first convolution to whiten the training images' patches, and "
                        "freeze it")
    zero_init_residual: bool = flag(False, "begin with residual branches that add nothing: the gamma of "
                                    "their last normalisation is 0")
