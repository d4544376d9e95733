"""Send a command to the `punchlab up` of this shell: `ask.py SOCKET WORD…` prints the answer. Run as a script."""

import json
import socket
import sys

try:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(sys.argv[1])
        channel.sendall(json.dumps(sys.argv[2:]).encode())
        channel.shutdown(socket.SHUT_WR)
        with channel.makefile("r", encoding="utf-8") as stream:
            answer = json.load(stream)
except (OSError, ValueError):
    sys.exit(f"{sys.argv[2]}: the lab does not answer")
if answer["text"]:
    print(answer["text"], file=sys.stderr if answer["status"] else sys.stdout)
sys.exit(answer["status"])
