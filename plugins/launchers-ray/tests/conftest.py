"""A cluster of tests asks for a token of its own. Ray reads these variables when it is imported, and keeps a token that
it has to make itself in the home folder."""

from __future__ import annotations

import os
import secrets

os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
