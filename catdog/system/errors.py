"""The one exception that is shown to a user without a traceback."""

EXIT_DEFECT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# The command that a message suggests if nothing has been trained yet.
TRAIN_COMMAND = "python -m catdog.train -m model=cnn,augmented,preprocessed,mobilenet"


class UserError(Exception):
    """A mistake or a condition that the user can fix.

    The message names the key or file, what is allowed, what was received and what to do next. The commands print it unchanged and
    exit with code 2. Every other exception is a defect of catdog and keeps its traceback.
    """
