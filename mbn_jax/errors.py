"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Something that the user gave is wrong: a file, a flag, a value, a data set.

    The message is one sentence that says what is wrong, where, what was expected and
    what to do. Scripts print it without a traceback and exit with status 1.
    """
