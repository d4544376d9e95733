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


def _is(description: str, more: dict[str, Any] | None = None) -> Meta:
    """Return the description of a field; `more` goes into the JSON Schema."""
    return Meta(description=description, extra_json_schema=more)


class Bytes(Struct, kw_only=True):
    """Bytes from the sender to the receiver, per way."""

    direct: Annotated[Count | None, _is("on direct connections")] = None
    edges: Annotated[Count | None, _is("through edges")] = None


class OutcomePrediction(Struct, kw_only=True):
    """What the oracle predicts."""

    outcome: Annotated[PredictedOutcome, _is("the predicted outcome; `depends`: chance or timing decides")]
    probability: Annotated[Share | None, _is("of a direct connection")] = None
    reason: Annotated[str | None, _is("why")] = None
    floor_s: Annotated[Positive | None, _is("least time from the first SYN until both hosts are connected")] = None
    agreed_floor_s: Annotated[Positive | None, _is("least time from the first SYN until both hosts have agreed")] = None


class Control(Struct, kw_only=True):
    """The connection attempt of the lab itself."""

    direct: Annotated[bool | None, _is("whether the lab connected; null if it could not try, see `reason`")] = None
    reason: Annotated[str | None, _is("why the lab could not try")] = None
    skew_s: Annotated[Number | None, _is("second connect() minus the first")] = None
    outcome_prediction: Annotated[OutcomePrediction | None, _is("the prediction for this attempt")] = None


class Timings(Struct, kw_only=True):
    """Durations until the later of the two hosts reached a step; null if one did not."""

    rendezvous: Annotated[Positive | None, _is("from the start to knowing the peer")] = None
    first_syn: Annotated[Positive | None, _is("from knowing the peer to the first SYN")] = None
    connected: Annotated[Positive | None, _is("from the first SYN of either to a connection")] = None
    agreed: Annotated[Positive | None, _is("from the first SYN of either to agreement on one connection")] = None
    transferred: Annotated[Positive | None, _is("from the first SYN of either to the end of the transfer")] = None
    known_to_connected: Annotated[Positive | None, _is("from when both know their peer to a connection")] = None
    known_to_agreed: Annotated[Positive | None, _is("from when both know their peer to agreement")] = None


class Choice(Struct, kw_only=True):
    """What `auto` found and chose."""

    nat: Annotated[str | None, _is("the NAT of the host as the client found it, in words")] = None
    strategy: Annotated[str | None, _is("the strategy that it chose")] = None
    why: Annotated[str | None, _is("why")] = None


class WinningPath(Struct, kw_only=True):
    """The path of the winning connection."""

    nats: Annotated[list[str] | None, _is("NATs that it crosses")] = None
    edge: Annotated[bool | None, _is("whether it passes an edge")] = None


class ExchangeCounts(Struct, kw_only=True):
    """What the capture shows of the SYNs between the hosts."""

    crossed: Annotated[bool | None, _is("whether two SYNs crossed between the NATs")] = None
    simultaneous_open: Annotated[bool | None, _is("whether TCP opened simultaneously")] = None
    syns: Annotated[Count | None, _is("SYNs of the punch")] = None
    resets: Annotated[Count | None, _is("RSTs in answer to them")] = None
    icmp: Annotated[Count | None, _is("ICMP errors in answer to them")] = None
    dropped: Annotated[Count | None, _is("SYNs that a NAT or firewall silently dropped")] = None


class Versions(Struct, kw_only=True):
    """Versions of what took part; null for what is not installed."""

    punchlab: Annotated[str | None, _is("this package")] = None
    kernel: Annotated[str | None, _is("Linux")] = None
    iptables: Annotated[str | None, _is("with its variant")] = None
    nft: Annotated[str | None, _is("nftables")] = None
    python: Annotated[str | None, _is("CPython")] = None


class TrialResult(Struct, kw_only=True):
    """The result record of one trial. Durations are in seconds; delays are one way.

    Fields that a trial does not have are null. All but those of the scenario are null if the lab broke (`lab_error`).
    """

    schema: Annotated[Literal[2], _is("version of this schema")]
    id: Annotated[Text, _is("name of the trial, unique within a run")]
    started: Annotated[str | None, _is("when the trial began, in UTC", {"format": "date-time"})] = None
    seed: Annotated[Seed | None, _is("seed of the draws of the links")] = None
    topology: Annotated[Text, _is("topology")]
    pair: Annotated[tuple[str, str], _is("the two hosts")]
    nat_a: Annotated[Text, _is("NAT of the first host")]
    nat_b: Annotated[Text, _is("NAT of the second host")]
    cgn: Annotated[str | None, _is("NAT of the carrier; null unless set")] = None
    port_mapping: Annotated[str | None, _is("port mapping protocols of the NATs")] = None
    unsolicited: Annotated[str | None, _is("how the NATs answer unsolicited SYNs")] = None
    client: Annotated[str | None, _is("client under test")] = None
    strategy: Annotated[str | None, _is("its strategy")] = None
    max_attempts: Annotated[Count | None, _is("connect() calls per candidate; null for no limit")] = None
    deadline_s: Annotated[Positive | None, _is("deadline of the punch")] = None
    skew_wanted_s: Annotated[Number | None, _is("how much later the second host was to start; null if not set")] = None
    skew_s: Annotated[Number | None, _is("measured: first SYN of the second host minus that of the first")] = None
    delay_s: Annotated[Positive | None, _is("delay of the path between the hosts")] = None
    jitter_s: Annotated[Positive | None, _is("jitter of that path")] = None
    loss: Annotated[Share | None, _is("share of packets that the path loses, one way")] = None
    bw_mbit_s: Annotated[Positive | None, _is("bandwidth of that path; null for no limit")] = None
    background_per_s: Annotated[
        Positive | None, _is("connections per second that other hosts open through each NAT")
    ] = None
    links: Annotated[str | None, _is("what impairs the links: `netem` or `nfqueue`")] = None
    outcome: Annotated[TrialOutcome, _is("outcome of the trial")]
    reason: Annotated[str | None, _is("why; null if the outcome is `direct` and the file was transferred")] = None
    connected: Annotated[bool | None, _is("whether the hosts had a direct connection")] = None
    transferred: Annotated[bool | None, _is("whether the file arrived")] = None
    bytes: Annotated[
        Bytes | None,
        _is(
            "bytes from the sender to the receiver. TCP: from the sequence numbers of SYN, FIN and RST; UDP: from the "
            "lengths of the datagrams at the hosts"
        ),
    ] = None
    outcome_prediction: Annotated[
        OutcomePrediction | None, _is("what the oracle predicts from the two behaviors and the timing")
    ] = None
    control: Annotated[
        Control | None,
        _is("the lab itself connects through the same NATs before the clients start, without host addresses"),
    ] = None
    agrees: Annotated[
        bool | None,
        _is(
            "whether the outcome and the control are as predicted. False is a bug in a NAT, the client or the oracle. "
            "Null if the trial cannot show it: chance decides, the client did not start to punch, failed before it was "
            "connected, did not use its direct connection, or used UDP, which the oracle does not model"
        ),
    ] = None
    timings_s: Annotated[Timings | None, _is("durations until the later host reached a step")] = None
    cpu_pressure: Annotated[
        Share | None,
        _is(
            "share of time in which tasks waited for a CPU (PSI of the kernel), from when both hosts knew their peer "
            "until they agreed on a connection; null if unknown"
        ),
    ] = None
    cpu_starved: Annotated[bool | None, _is("whether `cpu_pressure` is so high that the latencies do not count")] = None
    chosen: Annotated[
        dict[str, Choice] | None, _is("what `auto` found and chose, per host; null for other strategies")
    ] = None
    srflx_attempts: Annotated[dict[str, Count] | None, _is("connection attempts to the srflx candidate, per host")] = (
        None
    )
    path: Annotated[WinningPath | None, _is("path of the winning connection; null without one")] = None
    exchange: Annotated[ExchangeCounts | None, _is("from the capture")] = None
    capture: Annotated[str | None, _is("file of the packets (pcapng), relative to the run")] = None
    capture_drops: Annotated[Count | None, _is("packets that the capture lost")] = None
    versions: Annotated[Versions | None, _is("versions of what took part")] = None


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
