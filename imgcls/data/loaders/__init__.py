"""Loaders: batches on the device, in the order of an epoch, from any batch on.

`make.make_loader` chooses between `resident` (data that fits in memory) and `streaming` (everything else,
of which `preparer`, `prefetcher` and `host_batch` are parts). `batch` is what all of them give.
"""
