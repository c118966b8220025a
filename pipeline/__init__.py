"""Everything around the network: data, training, evaluation, tracking, the report."""

import os
import sys

# Ray reads these variables when it is first imported, so a change after that would have half an effect.
if "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:
    # A Ray that is started for this machine only listens on loopback, on Linux as well, and asks for a token.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
