"""The one base class of every error that is the user's to mend.

Rules: a message says what was given, what is accepted and what to do next. Only the command line
prints it, as one sentence and without a traceback (exit code 2). Every other exception is a fault
of ours (exit code 1). Foreign exceptions are wrapped once, at the border where they arise.
"""


class EdgewiseError(Exception):
    """A fault in what was given to Edgewise, with a message for the person who gave it."""
