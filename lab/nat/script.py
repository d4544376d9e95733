"""The rules of a NAT as a shell script for a router of one's own."""

from __future__ import annotations

from punchlab.lab.nat import portmapping
from punchlab.lab.nat.rules import rules
from punchlab.punch.nat.behavior import NatBehavior


def script(name: str, behavior: NatBehavior, *, inside: str, outside: str, address: str) -> str:
    """A POSIX shell script that makes the machine it runs on, as root, the NAT; it may be run again."""
    made = rules(behavior, inside=inside, outside=outside, address=address, ipv6=not behavior.translates)
    kind, replaced = (
        ("NAT", "nat and filter of iptables")
        if behavior.translates
        else ("firewall", "filter of iptables and of ip6tables")
    )
    if made.tables:
        replaced += f", and of nft: {', '.join(made.tables)}"
    lines = [
        "#!/bin/sh",
        f"# {name}: a {kind} from {inside} (inside) to {outside} (outside, {', '.join(made.addresses)}).",
        f"# Replaces the tables {replaced}.",
        "set -e",
        "",
        *(f"ip address replace {extra}/32 dev {outside}" for extra in made.addresses[1:]),
    ]
    lines += _loaded(
        "iptables: which external port a flow gets, and what an unsolicited packet gets.",
        "iptables-restore",
        made.iptables,
    )
    lines += _loaded("ip6tables: the same for IPv6.", "ip6tables-restore", made.ip6tables)
    fresh = "".join(f"{verb} table {table}\n" for table in made.tables for verb in ("add", "delete"))
    lines += _loaded(
        "nft: what iptables has no words for, in maps that the packets fill themselves.",
        "nft -f -",
        made.nft and fresh + made.nft,
    )
    for helper in made.helpers:
        lines += [f"# helper: {helper.purpose}. Keep this running beside the rules:", f"#   {helper}", ""]
    lines += [
        "# sysctl: the clocks and manners of connection tracking; last, forwarding.",
        *(f"sysctl -qw {path.replace('/', '.')}={value}" for path, value in made.sysctls.items()),
        "sysctl -qw net.ipv4.ip_forward=1",
        *(["sysctl -qw net.ipv6.conf.all.forwarding=1"] if made.ip6tables else []),
    ]
    if made.port_mapping:
        lines += [
            "",
            f"# Port mapping needs a helper process, which is not started here: {' '.join(portmapping.COMMAND)}",
            f"# (of the package {portmapping.PACKAGE}) with this configuration:",
            *(f"#   {line}" for line in made.port_mapping.splitlines()),
        ]
    return "\n".join([*lines, ""])


def _loaded(what: str, command: str, text: str) -> list[str]:
    """The lines that give the text to the command; none without a text."""
    return [f"# {what}", f"{command} <<'END'", text.rstrip("\n"), "END", ""] if text else []
