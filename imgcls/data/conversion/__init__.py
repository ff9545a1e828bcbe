"""Labelled images from one kind of file to another: records, folders, tar shards, LMDB, parquet.

`readers.py` opens what there is as samples in order, `writers.py` writes samples, `convert.py` puts the two
together, shrinks images on the way and divides them among shards. `mean.py` computes means over samples.
"""
