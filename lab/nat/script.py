"""The rules of a NAT as a shell script."""

from __future__ import annotations

from punchlab.lab.nat import portmapping
from punchlab.lab.nat.rules import rules
from punchlab.punch.nat.behavior import NatBehavior


def script(name: str, behavior: NatBehavior, *, inside: str, outside: str, address: str) -> str:
    """Return a POSIX shell script that turns a machine into the NAT. Run it as root; it can run repeatedly."""
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
        "iptables: allocate external ports and answer unsolicited packets.",
        "iptables-restore",
        made.iptables,
    )
    lines += _loaded("ip6tables: the same for IPv6.", "ip6tables-restore", made.ip6tables)
    fresh = "".join(f"{verb} table {table}\n" for table in made.tables for verb in ("add", "delete"))
    lines += _loaded(
        "nft: what iptables cannot do, in maps that packets fill.",
        "nft -f -",
        made.nft and fresh + made.nft,
    )
    for helper in made.helpers:
        lines += [f"# helper: {helper.purpose}. Keep this program running:", f"#   {helper}", ""]
    lines += [
        "# sysctl: timeouts and options of connection tracking; then forwarding.",
        *(f"sysctl -qw {path.replace('/', '.')}={value}" for path, value in made.sysctls.items()),
        "sysctl -qw net.ipv4.ip_forward=1",
        *(["sysctl -qw net.ipv6.conf.all.forwarding=1"] if made.ip6tables else []),
    ]
    if made.port_mapping:
        lines += [
            "",
            f"# Port mapping needs a helper process, which this script does not start: {' '.join(portmapping.COMMAND)}",
            f"# (of the package {portmapping.PACKAGE}) with this configuration:",
            *(f"#   {line}" for line in made.port_mapping.splitlines()),
        ]
    return "\n".join([*lines, ""])


def _loaded(what: str, command: str, text: str) -> list[str]:
    """Return the lines that pipe the text into the command, none for an empty text."""
    return [f"# {what}", f"{command} <<'END'", text.rstrip("\n"), "END", ""] if text else []
