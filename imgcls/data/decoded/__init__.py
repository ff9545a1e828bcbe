"""The decoded cache: pixels of images that were decoded once, for all later epochs of a run.

`segment` is the memory that the processes of a machine share, `images` keeps decoded images for training,
`crops` the finished crops of validation. What a batch holds never depends on what is kept: the loaders put
the same pixels into it either way. `training.decoded_cache` decides how much memory both may take.
"""
