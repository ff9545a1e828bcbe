"""Stand-ins for other libraries: their names and results, computed by this package. There is one, `mxnet`."""
