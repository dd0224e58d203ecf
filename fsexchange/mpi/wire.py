"""The kinds of messages of collectives, and the tags of all messages of the library's own.

Messages of `send` and `recv` are pickles, and travel on the Exchange itself, under the user's tags.
All others travel on the internal communicator, those between two ranks under the tags below.
"""

# ---- the kind of a message ----------------------------------------------------------------------

SMALL = 1  # the object as a pickle that leaves nothing out, all of it in the packet
PICKLE = 2  # the same, of any length
BUFFERS = 3  # the object as a pickle and the buffers that it leaves out
FAILURE = 4  # the exception that the sender raises

# ---- the verb of a message ----------------------------------------------------------------------

VERBS = (
    *("bcast", "gather", "allgather", "scatter", "alltoall"),
    *("reduce", "allreduce", "scan", "exscan", "assemble", "put_blocks"),
)
BCAST, GATHER, ALLGATHER, SCATTER, ALLTOALL = range(5)
REDUCE, ALLREDUCE, SCAN, EXSCAN, ASSEMBLE, PUT_BLOCKS = range(5, len(VERBS))

# ---- tags on the internal communicator; those that only tell are empty ----------------------

ASK = 1  # by a rank that leaves: has the receiver left, too?
HERE = 2  # the answer: it has
LEAVES = 3  # to another rank: its sender and some others have left
OFFER = 4  # where in a room a rank's part is
WRITTEN = 5  # a rank has written its part of a room, or used what it was offered
SENT_ANYWAY = 6  # an array that was described only, as MPI was to reduce it, and cannot
PACKET = 7  # the start of a message that a collective moves, see `carriers`

# The rest of a message that a collective moves to one rank has the number of its call, modulo
# RESTS, from REST on: what a rank has not received of one call it does not take for another's.
REST, RESTS = 16, 1024

# The bodies of large messages to other hosts have numbers of their own, from this one on.
FIRST_NUMBER = REST + RESTS
