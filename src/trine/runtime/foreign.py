"""What code that is not ours has raised, said in one line: a reward function, an environment."""

import traceback
from pathlib import Path

FOREIGN_ERRORS = (Exception, SystemExit)
"""Whatever another's code may raise short of the user's own Ctrl-C; its sys.exit() must not end a run as a success."""


def told(error: BaseException) -> str:
    """The error, and the line that raised it.

    >>> told(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero'
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    said = str(error).strip()
    return f"{type(error).__name__}{': ' if said else ''}{said}{place}"
