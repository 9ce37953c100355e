"""`python -m InContextSegLib`: the command line where no script could be installed."""

import sys

from InContextSegLib.cli.main import main

sys.exit(main())
