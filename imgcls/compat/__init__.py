"""Stand-ins for other libraries, for code that uses them only to get at its data. There is one, `mxnet`."""
