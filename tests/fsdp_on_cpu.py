"""`emola ...` under fully sharded data parallelism between CPU processes.

accelerate offers it between accelerators only, so it is told that these are; everything after that is the real thing.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from sdk.cli import main

initialise = PartialState.__init__


def initialise_as_accelerators(self, *args, **kwargs):
    initialise(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = initialise_as_accelerators
sys.exit(main(sys.argv[1:]))
