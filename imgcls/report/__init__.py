"""Pages and tables about runs: what was learned, epoch by epoch, from our own files or from MXNet's logs."""
