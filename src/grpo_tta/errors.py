"""The one exception users meet: a sentence that names the cause and the remedy."""


class UserError(ValueError):
    """Something that the user can put right: wrong settings, labels, files or models.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
