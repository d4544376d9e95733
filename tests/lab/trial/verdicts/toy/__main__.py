"""The toy client's commands: `edge ENDPOINT...`, `send KEY=VALUE...`, `receive KEY=VALUE...`.

Somebody else's client, as far as the lab can know: it uses nothing of `punch`.
"""

from __future__ import annotations

import json
import os
import sys
import time


def _main() -> int:
    role, *words = sys.argv[1:]
    if role == "edge":
        from tests.lab.trial.verdicts.toy.edge import serve

        serve(words, lambda: print(json.dumps({"event": "listening", "t": time.monotonic()}), flush=True))
        return 0
    from tests.lab.trial.verdicts.toy import host

    return host.main(role, dict(word.split("=", 1) for word in words))


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    os._exit(code)  # threads that still wait for a peer are no reason to stay
