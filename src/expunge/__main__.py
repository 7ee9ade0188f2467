"""`python -m expunge` is the command `expunge`."""

import sys

from expunge.cli.main import main

sys.exit(main())
