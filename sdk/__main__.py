"""Run the command `emola` as `python -m sdk`."""

import sys

from sdk.cli import main

sys.exit(main())
