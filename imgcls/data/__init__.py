"""From files to batches: `sources` (what there is), `order` (which sample comes when), `decode` and `augment` (pixels),
`loader` (batches on the device)."""
