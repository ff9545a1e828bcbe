"""The version of imgcls, in the one place that the package, its metadata and its checkpoints read it from."""

__version__ = "0.1.0"
