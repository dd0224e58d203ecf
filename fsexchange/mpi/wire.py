"""The first bytes and the tags of all messages between ranks.

Messages of `send` and `recv` travel under the user's tags, on a communicator of their own. All
others travel on the internal communicator, under the tags below.
"""

# ---- the first byte of a message ----------------------------------------------------------------

OBJECT = 1  # the object itself
OWN_FILE = 2  # the key of the file that holds the object
PART_OF_FILE = 3  # the key of a file, and where in it the object for this rank is
FAILURE = 4  # the exception that the sender raises
STAND_BY = 5  # nothing yet: the root writes a file, and sends another message about it

# The start of a message that is too long to be sent eagerly, with its number.
REST_FOLLOWS = 9  # the sender sends the rest as well
REQUEST_TO_SEND = 10  # the sender waits for a clear to send

# ---- tags on the internal communicator; all these messages are empty, except rests ---------------

ASK = 1  # by a rank that leaves by an exception: has the receiver left, too?
HERE = 2  # the answer: it has
ACKNOWLEDGEMENT = 3  # the reader of a file has what it needs
REST = 4  # the rest of a message that a collective moves to one rank
WAKE = 5  # the wait that STAND_BY began is over

# Every long message of `send` has a number, which is the tag of its rest. The next two tags belong
# to it, so numbers go up in steps of three.
FIRST_NUMBER = 16
CLEAR_TO_SEND = 1  # added to the number: the receiver waits for the rest
REPLACEMENT = 2  # added to the number: a message in place of the one whose rest was not sent
TAGS_PER_NUMBER = 3
