"""`mx.gluon.data`: data sets of records. Batches of them are made by torch's DataLoader, or any other."""

from imgcls.compat.mxnet.gluon.data import vision
from imgcls.compat.mxnet.gluon.data.dataset import Dataset, RecordFileDataset

__all__ = ["Dataset", "RecordFileDataset", "vision"]
