"""`python -m InContextSegLib`: the command line where no script could be installed."""

import sys

from InContextSegLib.cli import main

sys.exit(main())
