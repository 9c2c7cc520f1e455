"""The one exception that is shown to a user without a traceback."""


class UserError(Exception):
    """A mistake or a condition that the user can mend.

    The message names the key or file, what is allowed, what was received and what to do next. The entry
    points print it as it is and exit with code 2; every other exception is a defect of catdog, and keeps its traceback.
    """
