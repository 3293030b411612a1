"""Makes `cut_over_ranks` importable, which tests and the processes that they start share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
