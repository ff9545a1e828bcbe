"""The parameter server of dist_async."""
