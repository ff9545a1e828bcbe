"""`mx.gluon.model_zoo.vision`: networks for images, with MXNet's names of layers and parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from imgcls.compat.mxnet._registration import missing
from imgcls.compat.mxnet.gluon.model_zoo.vision.densenet import DenseNet, get_densenet
from imgcls.compat.mxnet.gluon.model_zoo.vision.inception import Inception3, inception_v3
from imgcls.compat.mxnet.gluon.model_zoo.vision.mobilenet import (
    MobileNet,
    MobileNetV2,
    get_mobilenet,
    get_mobilenet_v2,
)
from imgcls.compat.mxnet.gluon.model_zoo.vision.plain import VGG, AlexNet, alexnet, get_vgg
from imgcls.compat.mxnet.gluon.model_zoo.vision.resnet import (
    BasicBlockV1,
    BasicBlockV2,
    BottleneckV1,
    BottleneckV2,
    ResNetV1,
    ResNetV2,
    get_resnet,
)
from imgcls.compat.mxnet.gluon.model_zoo.vision.squeezenet import SqueezeNet, get_squeezenet

__all__ = ["VGG", "AlexNet", "BasicBlockV1", "BasicBlockV2", "BottleneckV1", "BottleneckV2", "DenseNet",
           "Inception3", "MobileNet", "MobileNetV2", "ResNetV1", "ResNetV2", "SqueezeNet", "alexnet",
           "get_densenet", "get_mobilenet", "get_mobilenet_v2", "get_model", "get_resnet", "get_squeezenet",
           "get_vgg", "inception_v3"]

#: name for `get_model` -> function that makes the network
_MODELS: dict[str, Callable[..., Any]] = {
    "alexnet": alexnet, "inceptionv3": inception_v3,
    **{f"resnet{layers}_v{version}": partial(get_resnet, version, layers)
       for version in (1, 2) for layers in (18, 34, 50, 101, 152)},
    **{f"vgg{layers}": partial(get_vgg, layers) for layers in (11, 13, 16, 19)},
    **{f"vgg{layers}_bn": partial(get_vgg, layers, batch_norm=True) for layers in (11, 13, 16, 19)},
    **{f"densenet{layers}": partial(get_densenet, layers) for layers in (121, 161, 169, 201)},
    **{f"squeezenet{version}": partial(get_squeezenet, version) for version in ("1.0", "1.1")},
    **{f"mobilenet{number}": partial(get_mobilenet, number) for number in (1.0, 0.75, 0.5, 0.25)},
    **{f"mobilenetv2_{number}": partial(get_mobilenet_v2, number) for number in (1.0, 0.75, 0.5, 0.25)},
}
#: name of the function: dots are underscores, mobilenetv2_1.0 is mobilenet_v2_1_0
_FUNCTIONS = {name.replace("mobilenetv2", "mobilenet_v2").replace(".", "_"): make
              for name, make in _MODELS.items()}


def get_model(name: str, **kwargs: Any) -> Any:
    """Return the network of a name; with `pretrained=True` it has the weights of MXNet's own folder."""
    if name.lower() not in _MODELS:
        options = "\n\t".join(sorted(_MODELS))
        raise ValueError(f"Model {name.lower()} is not supported. Available options are\n\t{options}")
    return _MODELS[name.lower()](**kwargs)


# resnet18_v1 and its like.
def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    raise missing("mxnet.gluon.model_zoo.vision", name, [*_FUNCTIONS, *__all__])
