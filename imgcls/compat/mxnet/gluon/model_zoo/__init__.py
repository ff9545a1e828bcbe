"""`mx.gluon.model_zoo`: networks by name."""

from imgcls.compat.mxnet.gluon.model_zoo import model_store, vision

__all__ = ["model_store", "vision"]
