"""`python -m trine`: the same as the `trine` command."""

import os
import sys
import traceback

from trine.cli.main import main
from trine.runtime.launch import launch


def _leave_at_once() -> None:
    """`main` where gloo's threads may still want the interpreter while it is taken down, which would abort or hang."""
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if launch().size > 1:
    _leave_at_once()
sys.exit(main())
