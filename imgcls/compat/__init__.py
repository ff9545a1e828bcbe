"""Stand-ins for other libraries, for code that uses them only to get at its data. `mxnet` is the one there is."""
