"""How a hand writes the ten digits: the strokes that `digits.py` draws from.

A digit stands in a box 6 wide and 10 high, x to the right and y down. Each way to write it is a list of
strokes, each stroke a list of points: LINE goes straight from point to point, CURVE smoothly through them.
Where a curve closes, its end runs on over its start, as a pen does.
"""

from __future__ import annotations

# Written by hand: several ways a digit, so that networks have something to tell apart.
LINE, CURVE = "line", "curve"

Point = tuple[float, float]
Stroke = tuple[str, list[Point]]

#: digit -> its ways to be written. Part of the data set: another point or order draws other digits, and with
#: them other accuracies in the documentation and other bytes in the tests.
SHAPES: dict[int, list[list[Stroke]]] = {
    # one upright, one leaning to the right
    0: [
        [(CURVE, [(3, 0), (1, 1.2), (0, 5), (1, 8.8), (3, 10), (5, 8.8), (6, 5), (5, 1.2), (3, 0),
                  (1.9, .3)])],
        [(CURVE, [(4.6, .8), (2.6, .1), (.7, 2.6), (.5, 6.6), (2, 9.7), (4.2, 9.4), (5.6, 6), (5.2, 2.2),
                  (3.4, 0), (2.4, .2)])],
    ],
    # a bare stroke, one with an upstroke, one with a foot as well
    1: [
        [(LINE, [(3, 0), (3, 10)])],
        [(LINE, [(1.2, 2.6), (3.2, 0), (3.2, 10)])],
        [(LINE, [(1.4, 2.2), (3.2, 0), (3.2, 10)]), (LINE, [(1, 10), (5.4, 10)])],
    ],
    2: [
        [(CURVE, [(.5, 2.6), (1.2, .7), (3, 0), (5, .8), (5.5, 3), (4.2, 5.5), (2, 8), (0, 10)]),
         (LINE, [(0, 10), (6, 10)])],
        [(CURVE, [(.3, 2.2), (2.5, 0), (5.3, 1.5), (4.5, 4.8), (1.8, 8.2), (.2, 9.4), (1, 8.4), (2.6, 8.9),
                  (4.4, 10), (6, 9.2)])],
    ],
    3: [
        [(CURVE, [(.8, 1.2), (3, 0), (5.2, 1.5), (4.6, 3.9), (2.2, 4.8), (5, 5.7), (5.8, 7.7), (3.5, 10),
                  (.3, 8.8)])],
        [(LINE, [(.5, .2), (5.4, .2), (2.6, 4)]),
         (CURVE, [(2.6, 4), (5, 4.9), (5.7, 7.5), (3.5, 10), (.3, 8.9)])],
    ],
    # open at the top in two strokes; closed, in one; open and rounded
    4: [
        [(LINE, [(1.6, 0), (.3, 5.8), (5.8, 5.8)]), (LINE, [(4.3, 2.6), (4, 10)])],
        [(LINE, [(4.4, 10), (4.4, 0), (0, 7), (6, 7)])],
        [(CURVE, [(.8, .4), (.4, 4), (2.2, 5.2), (5, 4.6)]), (LINE, [(5.2, .4), (4.6, 10)])],
    ],
    5: [
        [(LINE, [(5.4, 0), (1, 0), (.7, 4.4)]),
         (CURVE, [(.7, 4.4), (3.2, 3.6), (5.6, 5.2), (5.4, 8.4), (3, 10), (.2, 9)])],
        [(CURVE, [(1.2, .3), (.9, 4.4), (3.4, 4), (5.6, 6.2), (4.4, 9.4), (.3, 9.4)]),
         (LINE, [(1.2, .3), (5.7, .1)])],
    ],
    6: [
        [(CURVE, [(4.8, 0), (1.8, 2.5), (.3, 6.5), (1.5, 9.7), (4, 10), (5.6, 7.8), (4.4, 5.7), (2, 5.8),
                  (.5, 7.6)])],
        [(CURVE, [(3.6, 0), (1.2, 4), (.4, 7.5), (2, 10), (4.8, 9.6), (5.4, 7.2), (3.4, 5.4), (1, 6.8)])],
    ],
    # plain; with a bar, as in much of Europe; with a serif and a bent stem
    7: [
        [(LINE, [(0, .3), (5.8, .3), (2.2, 10)])],
        [(LINE, [(0, .3), (5.8, .3), (2.4, 10)]), (LINE, [(1.8, 5.2), (5.4, 5)])],
        [(LINE, [(.2, 1.9), (.4, .3), (5.6, .3)]), (CURVE, [(5.6, .3), (3.6, 4.5), (2.8, 10)])],
    ],
    8: [
        [(CURVE, [(4.9, 1.6), (3, 0), (1, 1.4), (1.7, 3.8), (4.4, 5.8), (5.6, 8), (3, 10), (.4, 8),
                  (1.8, 5.6), (4.4, 3.7), (4.9, 1.6), (4, .4)])],
        [(CURVE, [(3, 0), (1, 1.2), (1, 3.4), (3, 4.6), (5, 3.4), (5, 1.2), (3, 0), (1.9, .4)]),
         (CURVE, [(3, 4.6), (.7, 6), (.6, 8.7), (3, 10), (5.4, 8.7), (5.3, 6), (3, 4.6), (1.7, 5.1)])],
    ],
    9: [
        [(CURVE, [(5.2, 2.4), (3.2, 0), (.8, 1.4), (.8, 4), (3, 5.2), (5, 3.6), (5.2, 2.2)]),
         (LINE, [(5.2, 1.6), (4.6, 10)])],
        [(CURVE, [(5.2, 1.8), (3.2, 0), (.8, 1.4), (.8, 4), (3, 5.2), (5, 3.8)]),
         (CURVE, [(5.2, 1.8), (5.3, 6), (4, 9.6), (.9, 9.4)])],
    ],
}
