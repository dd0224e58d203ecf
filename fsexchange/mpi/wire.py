"""The first bytes and the tags of all messages between ranks.

Messages of `send` and `recv` are pickles, and travel on the Exchange itself, under the user's tags.
All others travel on the internal communicator, under the tags below.
"""

# ---- the first byte of a message of a collective -------------------------------------------------

OBJECT = 1  # the object itself
OWN_FILE = 2  # the key of the file that holds the object
PART_OF_FILE = 3  # the key of a file, and where in it the object for this rank is
FAILURE = 4  # the exception that the sender raises
STAND_BY = 5  # nothing yet: the root writes a file, and sends another message about it

# ---- tags on the internal communicator; all these messages are empty, except rests ---------------

ASK = 1  # by a rank that leaves by an exception: has the receiver left, too?
HERE = 2  # the answer: it has
ACKNOWLEDGEMENT = 3  # the reader of a file has what it needs
REST = 4  # the rest of a message that a collective moves to one rank
WAKE = 5  # the wait that STAND_BY began is over

# The bodies of large messages to other hosts have numbers of their own, from this one on.
FIRST_NUMBER = 16
