"""Everything around the network: data, training, evaluation, tracking, the report."""

import os
import sys

# Ray reads these when it is first imported; after that they would contradict what it has read.
if "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:
    # A Ray of this machine alone listens on loopback alone, on Linux, too, and takes orders only with its token.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
