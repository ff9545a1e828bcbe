"""Bounds that several settings share.

They are far beyond what anybody trains with, and low enough that no code that uses a value overflows or takes
hours. What a run really needs is checked where that is known.
"""

MAX_NUMBER = 10**6        # of rates, factors and the like: their product with a weight stays a float32
MAX_EPOCHS = 10**6
MAX_SIDE = 65500          # pixels: JPEG has no larger images
MAX_THREADS = 1024
MAX_PROCESSES = 1024      # on one machine
MAX_TIMEOUT_S = 1e7       # four months: torch counts in smaller units, which must not overflow
