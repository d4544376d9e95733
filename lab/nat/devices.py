"""Presets of devices and services, with their sources.

"Ford" is Ford, Srisuresh and Kegel, "Peer-to-peer communication across network address translators" (2005), table 1.
"Richter" is Richter et al., "A multi-perspective analysis of carrier-grade NAT deployment" (2016), cited by other
sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from punchlab.lab.nat.preset import Confidence, Preset
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Timeouts,
    Unsolicited,
)

_EIM = {"mapping": MappingBehavior.ENDPOINT_INDEPENDENT}
_APDM = {"mapping": MappingBehavior.ADDRESS_AND_PORT_DEPENDENT}
_EIF = {"filtering": FilteringBehavior.ENDPOINT_INDEPENDENT}
_ADF = {"filtering": FilteringBehavior.ADDRESS_DEPENDENT}
_APDF = {"filtering": FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT}
_PRESERVING = {"port_allocation": PortAllocation.PRESERVING}
_RANDOM = {"port_allocation": PortAllocation.RANDOM}
_BLOCKS = {"port_allocation": PortAllocation.BLOCKS}
_OVERLOADING = {"port_allocation": PortAllocation.PRESERVING, "port_overloading": True}
_THEN_NEXT = {"port_allocation": PortAllocation.PRESERVING, "on_clash": PortAllocation.SEQUENTIAL}
_RESET = {"unsolicited": Unsolicited.RESET}
_SILENT_THEN_ICMP = {"unsolicited": Unsolicited.SILENT_THEN_ICMP}
_HAIRPIN = {"hairpinning": Hairpinning.EXTERNAL_SOURCE}

_ALWAYS_SILENT = "timeouts.tcp_closing_s icmp_errors pool_size pooling"
_RESETS_AND_REFRESH = "reset_closes refresh"


def _device(
    source: str,
    confidence: Confidence,
    *parts: dict[str, Any],
    tcp: tuple[int, int] = (240, 7440),
    udp: tuple[int, int] = (300, 300),
    silent: str = "",
    claims: str = "",
) -> Preset:
    """Return a preset. `tcp` is (transitory, established), `udp` (solitary, stream), in seconds.

    `silent` lists fields that the source does not claim. `claims` lists fields that it claims although most sources do
    not.
    """
    merged = {name: value for part in parts for name, value in part.items()}
    timeouts = Timeouts(
        tcp_transitory_s=tcp[0],
        tcp_established_s=tcp[1],
        tcp_closing_s=tcp[0],
        udp_solitary_s=udp[0],
        udp_stream_s=udp[1],
    )
    not_claimed = frozenset(f"{silent} {_ALWAYS_SILENT} {_RESETS_AND_REFRESH}".split()) - frozenset(claims.split())
    return Preset(NatBehavior(timeouts=timeouts, **merged), source, confidence, not_claimed)


_TIMELESS = (
    "timeouts.tcp_transitory_s timeouts.tcp_established_s timeouts.udp_solitary_s timeouts.udp_stream_s hairpinning"
)
_HIGH, _MEDIUM, _LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW

DEVICES: Mapping[str, Preset] = MappingProxyType(
    {
        "rfc_ideal": _device(
            "RFC 4787, RFC 5382",
            _HIGH,
            *(_EIM, _EIF, _PRESERVING, _HAIRPIN, _SILENT_THEN_ICMP),
            claims="icmp_errors pool_size pooling",
        ),
        "linux_masq": _device(
            "measured on Linux 6.18 (iptables MASQUERADE); kernel source",
            _HIGH,
            *(_EIM, _APDF, _OVERLOADING, _RESET),
            tcp=(120, 432000),
            udp=(30, 120),
            claims=_RESETS_AND_REFRESH,
        ),
        "linux_masq_drop": _device(
            "measured on Linux 6.18 (iptables MASQUERADE, INPUT DROP)",
            _HIGH,
            *(_EIM, _APDF, _OVERLOADING),
            tcp=(120, 432000),
            udp=(30, 120),
            claims=_RESETS_AND_REFRESH,
        ),
        "openwrt": _device(
            "timeouts: OpenWrt's sysctl-nf-conntrack.conf; the rest from memory",
            _MEDIUM,
            *(_EIM, _APDF, _OVERLOADING, _RESET),
            tcp=(120, 7440),
            udp=(60, 180),
        ),
        "mikrotik": _device(
            "timeouts: RouterOS exports; the rest from memory",
            _MEDIUM,
            *(_EIM, _APDF, _PRESERVING),
            tcp=(5, 86400),
            udp=(10, 180),
            silent="port_overloading",
        ),
        "pf_default": _device(
            "timeouts: pfctl output; mapping from memory",
            _MEDIUM,
            *(_APDM, _APDF, _RANDOM),
            tcp=(120, 86400),
            udp=(60, 60),
        ),
        "winnat_hyperv": _device(
            "Get-NetNat output; mapping from memory",
            _MEDIUM,
            *(_EIM, _ADF, _PRESERVING),
            tcp=(120, 1800),
            udp=(120, 120),
            silent="port_allocation port_overloading",
        ),
        "cisco_ios_pat": _device(
            "timeouts: 86400 s and 300 s documented; the rest from memory",
            _LOW,
            *(_APDM, _APDF, _THEN_NEXT),
            tcp=(60, 86400),
        ),
        "corporate_fw": _device(
            "patchbay's preset table: ASA, Palo Alto, Fortinet, SRX",
            _MEDIUM,
            *(_APDM, _APDF, _RANDOM),
            tcp=(30, 3600),
            udp=(30, 30),
        ),
        "aws_natgw": _device(
            "350 s: AWS documentation; mapping: patchbay and memory",
            _MEDIUM,
            *(_APDM, _APDF, _RANDOM),
            tcp=(240, 350),
            udp=(350, 350),
            silent="timeouts.tcp_transitory_s",
        ),
        "gcp_cloudnat": _device(
            "terraform provider documentation; endpoint-independent mapping is optional",
            _HIGH,
            *(_APDM, _APDF, _BLOCKS),
            tcp=(30, 1200),
            udp=(30, 30),
            silent="block_size",
        ),
        "azure_natgw": _device(
            "4 minutes by default documented; the rest from memory",
            _LOW,
            *(_APDM, _APDF, _RANDOM),
            tcp=(240, 240),
            udp=(240, 240),
            silent="timeouts.tcp_transitory_s",
        ),
        "vpp_det_cgn": _device("FD.io API documentation", _MEDIUM, _EIM, _EIF, _BLOCKS, silent="block_size"),
        "einat_fullcone": _device(
            "einat's documentation and configuration",
            _HIGH,
            *(_EIM, _EIF, _THEN_NEXT, _HAIRPIN),
            tcp=(240, 7200),
        ),
        # A block limits the ports of a subscriber (REQ-4). The 120 s delay before a port is reused (REQ-8) is not
        # implemented.
        "cgn_rfc6888": _device(
            "RFC 6888 (REQ-1, REQ-2, REQ-4, REQ-7)", _HIGH, _EIM, _EIF, _BLOCKS, _HAIRPIN, silent="block_size"
        ),
        "cgn_fixed_eim": _device("Richter, secondary", _MEDIUM, _EIM, _APDF, _BLOCKS, udp=(35, 35)),
        "cgn_cell_sym": _device(
            "Richter, secondary (21 % have several addresses); a field log",
            _MEDIUM,
            *(_APDM, _APDF, _RANDOM),
            tcp=(30, 1800),
            udp=(65, 65),
        ),
        "sym_sequential_home": _device(
            "a field log (49566, 49567, 49568)",
            _MEDIUM,
            *(_APDM, _APDF, {"port_allocation": PortAllocation.SEQUENTIAL, "port_range": (49152, 53247)}),
            tcp=(120, 7440),
            udp=(60, 60),
            silent="port_range",
        ),
        "draytek_2005": _device(
            "Ford: punched over UDP 12 %, TCP 29 %, hairpin 25 %",
            _HIGH,
            *(_APDM, _APDF, _RANDOM),
            silent=f"port_allocation port_overloading {_TIMELESS}",
        ),
        "zyxel_2005": _device(
            "Ford: punched over UDP 78 %, TCP 0 % (RST inferred), hairpin 13 %",
            _MEDIUM,
            *(_EIM, _APDF, _PRESERVING, _RESET),
            silent=f"port_allocation port_overloading {_TIMELESS}",
        ),
        "linksys_2005": _device(
            "Ford: TCP 87 %, hairpin 12 % UDP, 8 % TCP",
            _HIGH,
            *(_EIM, _APDF, _PRESERVING),
            silent=f"port_allocation port_overloading unsolicited {_TIMELESS}",
        ),
    }
)
