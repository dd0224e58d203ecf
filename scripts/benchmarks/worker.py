"""One of two checkouts that are compared: a process or an MPI job that measures on command.

Its PYTHONPATH says which checkout it imports. Commands and answers are lines of JSON. The first
answer says what was imported. `next` prepares the next row, and is answered with the label of the
row and how many objects or calls make a round; `measure` is answered with the seconds of each work.
"""

import gc
import json

import fsexchange


def serve(lines, rows, answer):
    """Obey the lines until there are no more.

    A row is a label, a number of times, and a function that measures one round of so many.
    """
    answer({"imported": fsexchange.__file__})
    measure = None
    for line in lines:
        command, times = json.loads(line)
        if command == "next":
            measure = None  # the object of the row before goes before the next is made
            label, times, measure = next(rows, (None, None, None))
            answer({"label": label, "times": times})
        else:
            gc.collect()
            answer(measure(times))
