"""How many examples hypothesis tries."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("PUNCHLAB_EXAMPLES", "200"))
