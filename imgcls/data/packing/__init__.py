"""Pack the images of a list into a record file: what im2rec does, without its command line and printing.

`pack.py` is where to begin: lists to records, and records to seekable ones, as `config.py` says. `images.py`
decodes and encodes, `jpeg.py` looks at an encoded image without decoding it, `pipeline.py` keeps threads busy
and their results in order.
"""
