"""A trained network as a file that other programs run: `imgcls-export`.

`run.py` shows the steps in order. `preprocessing.py` is the preparation of images as part of the network,
each format has a file that writes it and runs it, and `compare.py` compares the result with the checkpoint.
"""
