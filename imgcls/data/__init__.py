"""From files to batches on the device, and from images to record files.

In the order in which a sample passes through them: `sources` (what there is), `order` (which sample comes
when), `crops` and `color` (what is drawn for it), `image_header`, `decode` and `pixels` (its pixels),
`normalize`, `loaders` (batches). `packing` writes the record files.
"""
