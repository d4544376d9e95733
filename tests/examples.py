"""How many examples the property tests try."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("PUNCHLAB_EXAMPLES", "200"))
