"""The result record of a trial, one line of `results.jsonl`: the only declaration of its fields."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from punchlab.lab.results.outcomes import PredictedOutcome, TrialOutcome

SCHEMA: Literal[2] = 2

_MOST = sys.float_info.max
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-_MOST, le=_MOST)]
Positive = Annotated[float, Meta(ge=0, le=_MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Bytes(Struct, kw_only=True):
    """Bytes from the sender to the receiver, per way."""

    direct: Annotated[Count | None, Meta(description="on direct connections")] = None
    edges: Annotated[Count | None, Meta(description="through edges")] = None


class OutcomePrediction(Struct, kw_only=True):
    """What the oracle predicts."""

    outcome: Annotated[PredictedOutcome, Meta(description="the predicted outcome; `depends`: chance or timing decides")]
    probability: Annotated[Share | None, Meta(description="of a direct connection")] = None
    reason: Annotated[str | None, Meta(description="why")] = None
    floor_s: Annotated[
        Positive | None, Meta(description="least time from the first SYN until both hosts are connected")
    ] = None
    agreed_floor_s: Annotated[
        Positive | None, Meta(description="least time from the first SYN until both hosts have agreed")
    ] = None


class Control(Struct, kw_only=True):
    """The connection attempt of the lab itself."""

    direct: Annotated[
        bool | None, Meta(description="whether the lab connected; null if it could not try, see `reason`")
    ] = None
    reason: Annotated[str | None, Meta(description="why the lab could not try")] = None
    skew_s: Annotated[Number | None, Meta(description="second connect() minus the first")] = None
    outcome_prediction: Annotated[OutcomePrediction | None, Meta(description="the prediction for this attempt")] = None


class Timings(Struct, kw_only=True):
    """Durations until the later of the two hosts reached a step; null if one did not."""

    rendezvous: Annotated[Positive | None, Meta(description="from the start to knowing the peer")] = None
    first_syn: Annotated[Positive | None, Meta(description="from knowing the peer to the first SYN")] = None
    connected: Annotated[Positive | None, Meta(description="from the first SYN of either to a connection")] = None
    agreed: Annotated[
        Positive | None, Meta(description="from the first SYN of either to agreement on one connection")
    ] = None
    transferred: Annotated[
        Positive | None, Meta(description="from the first SYN of either to the end of the transfer")
    ] = None
    known_to_connected: Annotated[
        Positive | None, Meta(description="from when both know their peer to a connection")
    ] = None
    known_to_agreed: Annotated[Positive | None, Meta(description="from when both know their peer to agreement")] = None


class WinningPath(Struct, kw_only=True):
    """The path of the winning connection."""

    nats: Annotated[list[str] | None, Meta(description="NATs that it crosses")] = None
    edge: Annotated[bool | None, Meta(description="whether it passes an edge")] = None


class ExchangeCounts(Struct, kw_only=True):
    """What the capture shows of the SYNs between the hosts."""

    crossed: Annotated[bool | None, Meta(description="whether two SYNs crossed between the NATs")] = None
    simultaneous_open: Annotated[bool | None, Meta(description="whether TCP opened simultaneously")] = None
    syns: Annotated[Count | None, Meta(description="SYNs of the punch")] = None
    resets: Annotated[Count | None, Meta(description="RSTs in answer to them")] = None
    icmp: Annotated[Count | None, Meta(description="ICMP errors in answer to them")] = None
    dropped: Annotated[Count | None, Meta(description="SYNs that a NAT or firewall silently dropped")] = None


class Versions(Struct, kw_only=True):
    """Versions of what took part; null for what is not installed."""

    punchlab: Annotated[str | None, Meta(description="this package")] = None
    kernel: Annotated[str | None, Meta(description="Linux")] = None
    iptables: Annotated[str | None, Meta(description="with its variant")] = None
    nft: Annotated[str | None, Meta(description="nftables")] = None
    python: Annotated[str | None, Meta(description="CPython")] = None


class TrialResult(Struct, kw_only=True):
    """The result record of one trial. Durations are in seconds; delays are one way.

    Fields that a trial does not have are null. All but those of the scenario are null if the lab broke (`lab_error`).
    """

    schema: Annotated[Literal[2], Meta(description="version of this schema")]
    id: Annotated[Text, Meta(description="name of the trial, unique within a run")]
    started: Annotated[
        str | None, Meta(description="when the trial began, in UTC", extra_json_schema={"format": "date-time"})
    ] = None
    seed: Annotated[Seed | None, Meta(description="seed of the draws of the links")] = None
    topology: Annotated[Text, Meta(description="topology")]
    pair: Annotated[tuple[str, str], Meta(description="the two hosts")]
    nat_a: Annotated[Text, Meta(description="NAT of the first host")]
    nat_b: Annotated[Text, Meta(description="NAT of the second host")]
    cgn: Annotated[str | None, Meta(description="NAT of the carrier; null unless set")] = None
    port_mapping: Annotated[str | None, Meta(description="port mapping protocols of the NATs")] = None
    unsolicited: Annotated[str | None, Meta(description="how the NATs answer unsolicited SYNs")] = None
    client: Annotated[str | None, Meta(description="client under test")] = None
    strategy: Annotated[str | None, Meta(description="its strategy")] = None
    max_attempts: Annotated[Count | None, Meta(description="connect() calls per candidate; null for no limit")] = None
    deadline_s: Annotated[Positive | None, Meta(description="deadline of the punch")] = None
    skew_wanted_s: Annotated[
        Number | None, Meta(description="how much later the second host was to start; null if not set")
    ] = None
    skew_s: Annotated[
        Number | None, Meta(description="measured: first SYN of the second host minus that of the first")
    ] = None
    delay_s: Annotated[Positive | None, Meta(description="delay of the path between the hosts")] = None
    jitter_s: Annotated[Positive | None, Meta(description="jitter of that path")] = None
    loss: Annotated[Share | None, Meta(description="share of packets that the path loses, one way")] = None
    bw_mbit_s: Annotated[Positive | None, Meta(description="bandwidth of that path; null for no limit")] = None
    background_per_s: Annotated[
        Positive | None, Meta(description="connections per second that other hosts open through each NAT")
    ] = None
    links: Annotated[str | None, Meta(description="what impairs the links: `netem` or `nfqueue`")] = None
    outcome: Annotated[TrialOutcome, Meta(description="outcome of the trial")]
    reason: Annotated[
        str | None, Meta(description="why; null if the outcome is `direct` and the file was transferred")
    ] = None
    connected: Annotated[bool | None, Meta(description="whether the hosts had a direct connection")] = None
    transferred: Annotated[bool | None, Meta(description="whether the file arrived")] = None
    bytes: Annotated[
        Bytes | None,
        Meta(
            description="bytes from the sender to the receiver. TCP: from the sequence numbers of SYN, FIN and RST; "
            "UDP: from the lengths of the datagrams at the hosts"
        ),
    ] = None
    outcome_prediction: Annotated[
        OutcomePrediction | None, Meta(description="what the oracle predicts from the two behaviors and the timing")
    ] = None
    control: Annotated[
        Control | None,
        Meta(
            description="the lab itself connects through the same NATs before the clients start, without host addresses"
        ),
    ] = None
    agrees: Annotated[
        bool | None,
        Meta(
            description="whether the outcome and the control are as predicted. False is a bug in a NAT, the client or "
            "the oracle. Null if the trial cannot show it: chance decides, the client did not start to punch, failed "
            "before it was connected, did not use its direct connection, or used UDP, which the oracle does not model"
        ),
    ] = None
    timings_s: Annotated[Timings | None, Meta(description="durations until the later host reached a step")] = None
    cpu_pressure: Annotated[
        Share | None,
        Meta(
            description="share of time in which tasks waited for a CPU (PSI of the kernel), from when both hosts knew "
            "their peer until they agreed on a connection; null if unknown"
        ),
    ] = None
    cpu_starved: Annotated[
        bool | None, Meta(description="whether `cpu_pressure` is so high that the latencies do not count")
    ] = None
    srflx_attempts: Annotated[
        dict[str, Count] | None, Meta(description="connection attempts to the srflx candidate, per host")
    ] = None
    path: Annotated[WinningPath | None, Meta(description="path of the winning connection; null without one")] = None
    exchange: Annotated[ExchangeCounts | None, Meta(description="from the capture")] = None
    capture: Annotated[str | None, Meta(description="file of the packets (pcapng), relative to the run")] = None
    capture_drops: Annotated[Count | None, Meta(description="packets that the capture lost")] = None
    versions: Annotated[Versions | None, Meta(description="versions of what took part")] = None


def upgrade(record: dict[str, Any], spare_pressure: float) -> None:
    """Rename the fields of a record of schema 1 in place, and add those that follow from others."""
    for names in (record, record.get("control")):
        if isinstance(names, dict) and "prediction" in names:
            names["outcome_prediction"] = names.pop("prediction")
    if "attempts" in record:
        record["srflx_attempts"] = record.pop("attempts")
    if isinstance(pressure := record.get("cpu_pressure"), float):
        record["cpu_starved"] = pressure > spare_pressure
    record["schema"] = SCHEMA
