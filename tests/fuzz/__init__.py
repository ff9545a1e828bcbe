"""Fuzzers for every format that is read: `targets` what is read, `mutations` how it is spoilt, `runner` the loop.

`scripts/fuzz.py` runs them for minutes, `tests/test_fuzz.py` for a fixed number of inputs.
"""
