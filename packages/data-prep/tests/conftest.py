"""Makes `decided` importable, which tests of comparers share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
