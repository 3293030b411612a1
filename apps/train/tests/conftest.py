"""Makes `two_gates` and `forked` importable, which tests and the processes that they start share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
