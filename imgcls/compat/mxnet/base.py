"""`mx.base`: the base of all errors that are raised here."""

from imgcls.errors import ImgclsError as MXNetError

__all__ = ["MXNetError"]
