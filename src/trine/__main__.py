"""`python -m trine`: the same as the `trine` command."""

import sys

from trine.cli.main import main

sys.exit(main())
