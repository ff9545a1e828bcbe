"""The decoded cache: pixels of images that were decoded once, for all later epochs of a run or later runs.

`segment` is the memory that the processes of a machine share, `images` keeps decoded images for training,
`crops` the finished crops of validation. Where the pixels are on a disk, `pixel_file` reads and writes them,
`tables` keeps what is where, and `identity` tells whether that is still so; `stores` is what both have in
common with memory. What a batch holds never depends on what is kept: the loaders put
the same pixels into it either way. `training.decoded_cache` decides how much memory both may take.
"""
