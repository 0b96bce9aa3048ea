"""`python -m sdk` is `emola`."""

import sys

from sdk.cli import main

sys.exit(main())
