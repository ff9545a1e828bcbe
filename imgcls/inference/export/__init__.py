"""A trained network as a file that other programs run: `imgcls-export`.

`run.py` is the table of contents; `preprocessing.py` is what becomes of an image as part of the network, one
file for each format writes it and runs it, `compare.py` holds what came out against the checkpoint.
"""
