"""The one exception users meet: a sentence that names the cause and the remedy."""


class UserError(ValueError):
    """Something that the user can put right: wrong settings, labels, files or models.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


def as_text(name: str) -> str:
    """A file's name, or a sentence with one in it, as text that can be written anywhere.

    Bytes of another encoding are written out, such as `\\xe7`, so that different names stay different.
    """
    try:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # a half character that stands for no byte, as JSON may hold
        return name.encode(errors="backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,692 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_line(error: Exception) -> str:
    """The cause in a line: libraries explain themselves in many."""
    lines = str(error).strip().splitlines()
    return as_text(lines[0].rstrip(".:")) if lines else type(error).__name__


def sentence(error: Exception) -> str:
    """What a row or a line of output says about an error that ended one image only."""
    return as_text(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
