"""Makes `broken`, the components that break one law each, importable here and in the processes of the kit."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
