"""`mx.gluon`: only `data`, the record data sets."""

from imgcls.compat.mxnet.gluon import data

__all__ = ["data"]
