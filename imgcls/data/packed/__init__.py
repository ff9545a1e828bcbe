"""Samples that lie many to a file: tar shards, LMDB, parquet.

    source      PackedSource: samples of several containers by one index, as loaders need them
    files       which files a pattern means, and that remote ones are copied
    shards, lmdb, parquet   a Container each: labels, and how one sample is read

Another format is another Container, and a line in `kinds.py`. Record files have a source of their own
(`data/record_source.py`), which also reads them in chunks.
"""
