"""`python -m trine`: the same as the `trine` command."""

import os
import sys

from trine.cli.main import main
from trine.runtime.launch import launch

code = main()
if launch().size > 1:
    # gloo's threads may still want the interpreter while it is being taken down, which would abort a finished process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
