"""`mx.gluon.data`: data sets, the order of their samples, and batches of them."""

from imgcls.compat.mxnet.gluon.data import vision
from imgcls.compat.mxnet.gluon.data.dataloader import DataLoader
from imgcls.compat.mxnet.gluon.data.dataset import ArrayDataset, Dataset, RecordFileDataset, SimpleDataset
from imgcls.compat.mxnet.gluon.data.sampler import (
    BatchSampler,
    FilterSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

__all__ = ["ArrayDataset", "BatchSampler", "DataLoader", "Dataset", "FilterSampler", "RandomSampler",
           "RecordFileDataset", "Sampler", "SequentialSampler", "SimpleDataset", "vision"]
