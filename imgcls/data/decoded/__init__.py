"""The decoded cache: pixels of images that were decoded once, for all later epochs of a run or later runs.

`segment` is the memory that the processes of a machine share, `images` keeps decoded images for training,
`crops` the finished crops of validation. Where the pixels are on a disk, `pixel_file` reads and writes them,
`tables` saves where each is, and `identity` tells whether they are still those of the data; `stores` is the
interface that memory and disk have in common. What a batch holds never depends on what is kept: the loaders
put the same pixels into it either way. `training.decoded_cache` decides how much memory both may take.
"""
