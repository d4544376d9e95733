"""Large labs and many labs: their cost is proportional, and nothing remains of them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from punchlab import Lab, LabError
from punchlab.lab.kernel import namespace
from punchlab.lab.kernel.rtnetlink import RouteSocket, hardware_address
from punchlab.lab.nat.loader import Loader, Request
from punchlab.lab.nat.rules import NatRules
from punchlab.topologies import AB
from punchlab.topologies.many_homes import ManyHomes


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_every_host_of_a_lab_with_a_thousand_nodes_reaches_the_edge() -> None:
    descriptors = open_descriptors()
    with Lab(ManyHomes(homes=499)) as lab, lab["edge1"].socket() as listener:
        assert len(list(lab)) == 1000
        listener.bind(("0.0.0.0", 5000))
        listener.listen()
        listener.settimeout(5)
        for host in (node for node in lab if node.kind == "host"):
            with host.socket() as dialler:
                dialler.settimeout(5)
                dialler.connect((lab.anycast, 5000))
                accepted, (address, _port) = listener.accept()
                accepted.close()
            assert address == lab[f"nat_{host.name}"].address
    assert open_descriptors() == descriptors


MANY = """
import os, threading, time
from punchlab import Lab
from punchlab.lab.kernel import namespace
from punchlab.topologies import AB

def memory_kb():
    return 4 * int(open("/proc/self/statm").read().split()[1])

for number in range(120):
    with Lab(AB(nat_a="full_cone")):
        pass
    if number == 20:
        before, descriptors = memory_kb(), os.listdir("/proc/self/fd")
assert os.listdir("/proc/self/fd") == descriptors
assert threading.active_count() == 1
assert memory_kb() - before < 2000, (before, memory_kb())

# The kernel's limit is per user namespace: so many can be made only when all others are gone, which it sees to soon.
open("/proc/sys/user/max_net_namespaces", "w").write("20")
end = time.monotonic() + 60
while True:
    try:
        for made in namespace.create(15):
            made.close()
        break
    except OSError:
        assert time.monotonic() < end, "namespaces are left"
        time.sleep(0.05)
"""


def test_nothing_remains_of_many_labs_in_one_process() -> None:
    inside = "import sys; from punchlab.lab.confinement import sandbox; sandbox.main(sys.argv[1:])"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", inside, sys.executable, "-c", MANY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_rejected_netlink_request_is_named() -> None:
    here, there = namespace.create(2)
    with RouteSocket(here) as routes:
        for number in range(200):
            mac, peer_mac = hardware_address(2 * number), hardware_address(2 * number + 1)
            name = "twice" if number in (150, 170) else f"v{number}"
            routes.add_veth(name, 10 + number, mac, (f"w{number}", 10 + number, peer_mac, there))
        with pytest.raises(LabError, match="netlink: veth twice: File exists"):
            routes.commit()
        with pytest.raises(LabError, match="'here' is no IP address"):
            routes.add_route("10.0.0.0/8", "here")
    for made in (here, there):
        made.close()


def test_netlink_requests_take_effect() -> None:
    here, there = namespace.create(2)
    with RouteSocket(here) as one, RouteSocket(there) as other:
        one.add_veth("x", 7, "02:00:00:00:00:07", ("y", 9, "02:00:00:00:00:09", there))
        one.commit()
        for routes, index, address in ((one, 7, "10.1.2.3/20"), (other, 9, "10.1.2.4/20")):
            routes.add_address(index, address)
            routes.set_up(index)
            routes.commit()
        one.add_neighbor(7, "10.1.2.4", "02:00:00:00:00:09")
        one.add_route("10.9.0.0/16", "10.1.2.4")
        one.add_route("0.0.0.0/0", "10.1.2.5")
        one.commit()
        one.wait_until_up([7])

    def shown(*words: str) -> Any:
        with here.entered():
            out = subprocess.run(["ip", "-json", *words], check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    (link,) = shown("address", "show", "dev", "x")
    assert (link["ifindex"], link["address"], link["operstate"]) == (7, "02:00:00:00:00:07", "UP")
    (address,) = (each for each in link["addr_info"] if each["family"] == "inet")
    assert (address["local"], address["prefixlen"]) == ("10.1.2.3", 20)
    gateways = {route["dst"]: route.get("gateway") for route in shown("route")}
    assert gateways == {"10.1.0.0/20": None, "10.9.0.0/16": "10.1.2.4", "default": "10.1.2.5"}
    (neighbor,) = shown("neighbor")
    assert (neighbor["dst"], neighbor["lladdr"], neighbor["state"]) == ("10.1.2.4", "02:00:00:00:00:09", ["PERMANENT"])
    for made in (here, there):
        made.close()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            NatRules("*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n", "", "", (), "", {}, ()),
            "nat_x: iptables-restore: .*line 2 failed",
        ),
        (NatRules("*nat\nCOMMIT\n", "", "table ip x { chain", (), "", {}, ()), "nat_x: nft: .*syntax error"),
    ],
)
def test_rejected_rules_are_reported_with_the_loaders_message(rules: NatRules, message: str) -> None:
    (space,) = namespace.create(1)
    with Loader([Request("nat_x", space, rules)]) as loader, pytest.raises(LabError, match=f"(?s){message}"):
        loader.finish()
    space.close()


def test_labs_are_built_in_parallel_threads() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                with Lab(AB(nat_a="full_cone", nat_b="symmetric")) as lab, lab["a"].socket(socket.SOCK_DGRAM) as made:
                    made.connect((lab.anycast, 9))
        except BaseException as error:  # reported below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_lab_that_needs_more_open_files_than_allowed_is_an_error() -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300)); "
    script += "from punchlab import Lab; from punchlab.topologies.many_homes import ManyHomes; "
    script += "Lab(ManyHomes(homes=100)).__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert "needs 660 open files, but the hard limit (`ulimit -Hn`) is 300" in done.stderr
