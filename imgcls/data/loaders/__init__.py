"""Loaders: batches on the device, in the order of an epoch, from any batch on."""
