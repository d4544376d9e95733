"""The probe detects the behavior of every NAT with sockets only."""

from __future__ import annotations

import json

import pytest

from punchlab import Lab
from punchlab.lab.check import check
from punchlab.lab.check.claims import TRANSPORTS, Found
from punchlab.lab.nat import presets
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies import Home
from tests.commands import assert_one_clear_line, punchlab, run

CLASSICS = ("none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric")


def home(nat: NatBehavior | None) -> Home:
    return Home(nat=nat or "none")


@pytest.mark.parametrize("unsolicited", ["drop", "reset"])
def test_every_classic_nat_has_its_claimed_behavior(unsolicited: str) -> None:
    nats = {name: presets.behavior(name, unsolicited) for name in CLASSICS}
    checks = check.run(nats, home, "a", jobs=len(CLASSICS), progress=lambda _done, _total: None)
    assert {name: [row for row in checked.rows if not row.agrees] for name, checked in checks.items()} == {
        name: [] for name in CLASSICS
    }
    assert {row.field for row in checks["symmetric"].rows} >= {"mapping", "filtering", "port_allocation", "unsolicited"}


def test_a_wrong_claim_is_detected() -> None:
    with Lab(Home(nat="port_restricted_cone", unsolicited="drop")) as lab:
        box = lab["nat_a"]
        inside, outside = box.graph.interfaces[1].name, box.graph.interfaces[0].name
        box.run(["iptables", "-D", "INPUT", "-j", "DROP"])
        box.run(["iptables", "-A", "INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"])
        box.run(["iptables", "-t", "nat", "-F", "POSTROUTING"])
        box.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", outside, "-j", "MASQUERADE", "--random-fully"])
        box.run(["nft", "delete", "table", "ip", "punchlab"])
        found = check.probe(lab, "a")
        wrong = {
            (row.transport, row.field): row.found for row in check.compare(lab.behavior("a"), found) if not row.agrees
        }
    assert inside != outside
    assert wrong == {
        **{(transport, "mapping"): "address-and-port-dependent" for transport in TRANSPORTS},
        **{(transport, "port_allocation"): "random" for transport in TRANSPORTS},
        ("tcp", "unsolicited"): "reset",
    }


def behind_own_rules(nft: str) -> Found:
    """Return the probe's report behind a NAT with this nft text, in which INSIDE, OUTSIDE and EXTERNAL are replaced."""
    with Lab(Home(nat="symmetric")) as lab:
        box = lab["nat_a"]
        outside, inside = (interface.name for interface in box.graph.interfaces)
        for name, value in (("INSIDE", inside), ("OUTSIDE", outside), ("EXTERNAL", box.address)):
            nft = nft.replace(name, value)
        box.run(["nft", "flush", "ruleset"])
        box.run(["nft", "-f", "-"], stdin=nft)
        return check.probe(lab, "a")


@pytest.mark.parametrize("delta", [1, 2, 7])
def test_a_port_sequence_is_detected_with_its_delta(delta: int) -> None:
    ports = ", ".join(f"{number} : {30000 + delta * number}" for number in range(512))
    found = behind_own_rules(
        "table ip own {\nchain out {\ntype nat hook postrouting priority srcnat\n"
        + "".join(
            f'oifname "OUTSIDE" ip protocol {transport} snat to EXTERNAL : numgen inc mod 512 map {{ {ports} }}\n'
            for transport in TRANSPORTS
        )
        + "}\n}\n"
    )
    for transport in TRANSPORTS:
        here = found[transport]
        assert (here["port_allocation"], here["port_delta"]) == ("sequential", delta)
        assert here["mapping"] == "address-and-port-dependent"


def test_an_address_dependent_mapping_is_detected() -> None:
    ports = ", ".join(f"{number} : {20000 + number}" for number in range(8192))
    found = behind_own_rules(
        "table ip own {\nchain out {\ntype nat hook postrouting priority srcnat\n"
        + "".join(
            f'oifname "OUTSIDE" ip protocol {transport} snat to EXTERNAL : '
            f"jhash ip saddr . {transport} sport . ip daddr mod 8192 map {{ {ports} }}\n"
            for transport in TRANSPORTS
        )
        + "}\n}\n"
    )
    assert [found[transport]["mapping"] for transport in TRANSPORTS] == ["address-dependent"] * 2


HAIRPIN = """
table ip own {
  chain in {
    type nat hook prerouting priority dstnat - 1;
    ip daddr EXTERNAL iifname "INSIDE" ip protocol { tcp, udp } dnat to 192.168.1.2
  }
  chain out {
    type nat hook postrouting priority srcnat - 1;
    oifname "OUTSIDE" masquerade
    RETURNING
  }
}
"""


@pytest.mark.parametrize(
    ("returning", "udp", "tcp"),
    [
        ('oifname "INSIDE" ip saddr 192.168.1.2 snat to EXTERNAL', "external-source", "external-source"),
        # Over TCP the SYN-ACK bypasses the NAT, so no connection is established.
        ("", "internal-source", "none"),
    ],
)
def test_hairpinning_is_detected_with_its_source(returning: str, udp: str, tcp: str) -> None:
    found = behind_own_rules(HAIRPIN.replace("RETURNING", returning))
    assert (found["udp"]["hairpinning"], found["tcp"]["hairpinning"]) == (udp, tcp)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("icmp-port-unreachable", "port-unreachable"),
        ("icmp-host-prohibited", "host-prohibited"),
        ("icmp-admin-prohibited", "admin-prohibited"),
        ("icmp-host-unreachable", "icmp 3/1"),
    ],
)
def test_icmp_answers_to_unsolicited_syns_are_distinguished_by_code(kind: str, answer: str) -> None:
    with Lab(Home(nat="port_restricted_cone")) as lab:
        lab["nat_a"].run(["iptables", "-D", "INPUT", "-j", "DROP"])
        lab["nat_a"].run(["iptables", "-A", "INPUT", "-j", "REJECT", "--reject-with", kind])
        found = check.probe(lab, "a")
    for transport in TRANSPORTS:
        assert found[transport]["unsolicited"] == answer
        assert found[transport]["unsolicited_answer_s"] < 1


# Inbound packets get another source, as behind some load balancers.
RUDE = """
table ip own {
  chain in {
    type nat hook prerouting priority dstnat;
    iifname "OUTSIDE" ip protocol { tcp, udp } dnat to 192.168.1.2
  }
  chain out {
    type nat hook postrouting priority srcnat;
    oifname "OUTSIDE" masquerade
    oifname "INSIDE" ip protocol { tcp, udp } masquerade fully-random
  }
  chain pass {
    type filter hook forward priority filter;
    ip protocol icmp drop
  }
}
"""


def test_swallowed_icmp_errors_and_a_changed_remote_endpoint_are_detected() -> None:
    found = behind_own_rules(RUDE)
    assert found["udp"]["icmp_errors"] == "swallowed"
    assert [found[transport]["remote_endpoint"] for transport in TRANSPORTS] == ["changed"] * 2


@pytest.mark.parametrize(("timeout_s", "scale"), [(2, 15)])
def test_the_lifetime_of_an_idle_mapping_is_measured(timeout_s: int, scale: int) -> None:
    with Lab(Home(nat="port_restricted_cone")) as lab:
        for name in ("udp_timeout", "udp_timeout_stream", "tcp_timeout_established"):
            path = f"/proc/sys/net/netfilter/nf_conntrack_{name}"
            lab["nat_a"].run(["sh", "-c", f"echo {timeout_s} > {path}"])
        found = check.probe(lab, "a", "--lifetime", "70", "--time-scale", str(scale))
    true_s = timeout_s * scale
    for transport in TRANSPORTS:
        lifetime = found[transport]["mapping_lifetime"]
        # The idle time starts slightly after the packet from which the NAT counts, and the check follows slightly after
        # its end.
        assert lifetime["above_s"] <= true_s + 1
        assert true_s * 0.9 <= lifetime["below_s"] <= true_s * 1.1


def test_check_prints_a_table_and_its_exit_status_is_the_result() -> None:
    done = run(punchlab("nat", "check", "full_cone,symmetric", "--unsolicited", "reset"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 NATs" in done.stdout
    assert "different from the claim: none" in done.stdout
    assert done.stdout.count("│ 4787 │") == 2 * 14
    assert done.stdout.count("│ 5382 │") == 2 * 10
    assert "fail (expected: the device does so)" in " ".join(done.stdout.split())


def test_check_prints_the_same_in_json() -> None:
    done = run(punchlab("nat", "check", "linux_masq", "--json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["linux_masq"]
    assert report["agrees"]
    found = {(row["transport"], row["field"]): row["found"] for row in report["fields"]}
    assert found["tcp", "timeouts.tcp_established_s"] == "432000"
    assert found["udp", "port_overloading"] == "yes"
    verdicts = {(row["rfc"], row["name"]): row["verdict"] for row in report["requirements"]}
    assert len(verdicts) == 24
    assert verdicts[4787, "REQ-3"] == verdicts[5382, "REQ-4"] == "fail (expected: the device does so)"
    assert verdicts[4787, "REQ-1"] == verdicts[5382, "REQ-2"] == "pass"


@pytest.mark.parametrize(("scale", "expected"), [("0", "from 0.001"), ("nan", "from 0.001"), ("1000", "at most 120")])
def test_an_impossible_time_scale_is_rejected(scale: str, expected: str) -> None:
    assert_one_clear_line(run(punchlab("nat", "check", "full_cone", "--time-scale", scale)), "time-scale", expected)
