"""The page of the result record. The columns and outcomes come from the code; each must have a meaning here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from docs.generate import names
from docs.generate.markdown import code, table

_OUTCOMES = {
    "direct": "The lab proved a direct connection: both clients ended with exit status 0, the file that arrived has "
    "the random content that was sent, and the capture shows at least that many bytes on connections between "
    "the two hosts "
    "that cross exactly the NATs between them (on a LAN: none), and at most 32 KiB through edges. A transfer that "
    "still runs at the end of its time is `direct` if its bytes so far took that way; then `transferred` is false.",
    "relayed": "The file arrived through edges, in whole or in part.",
    "no_rendezvous": "A client did not reach its edge, or received nothing about its peer.",
    "punch_timeout": "The deadline passed without a connection.",
    "refused": "Every attempt was refused, by RST or ICMP, until the attempts or the time were used up.",
    "hopeless": "The strategy `auto` found that these two NATs admit nothing, or almost nothing, and gave up after "
    "1.5 s. The reason gives details.",
    "wrong_peer": "A host answered that does not hold the shared secret.",
    "client_error": "A client broke its contract or crashed, or the capture does not show how the file arrived.",
    "lab_error": "The lab itself failed. Such a trial is never counted as a failed punch.",
}

_PREDICTION = {
    "outcome": "What the oracle predicts: `direct`, `fails` or `depends`.",
    "probability": "The probability of a direct connection, from 0 to 1.",
    "reason": "Why the oracle predicts this.",
    "floor_s": "The least time from the first SYN until both hosts are connected, in seconds.",
    "agreed_floor_s": "The least time from the first SYN until both hosts have agreed on a connection, in seconds.",
}

_MEANINGS = {
    "id": "The name of the trial. It depends only on the cell and the number of the trial.",
    "started": "When the trial started (UTC).",
    "seed": "The seed of the random draws of links and background traffic.",
    "topology": "The topology.",
    "pair": "The names of the two hosts. The first host is the sender.",
    "nat_a": "The NAT of the first host.",
    "nat_b": "The NAT of the second host.",
    "cgn": "The NAT of the carrier. Null if the option was not set.",
    "port_mapping": "The port mapping protocols of the NATs.",
    "unsolicited": "The answer of the NATs to an unsolicited SYN.",
    "client": "The client under test.",
    "strategy": "The strategy of the client.",
    "max_attempts": "The maximum number of connect() calls per candidate. Null means no limit.",
    "deadline_s": "The time limit for punching, in seconds.",
    "skew_wanted_s": "The requested start skew, in seconds. Null if the option was not set.",
    "skew_s": "The measured skew: the first SYN of the second host minus the first SYN of the first host, in seconds.",
    "delay_s": "The delay between the two hosts, one way, in seconds.",
    "jitter_s": "The jitter between the two hosts, one way, in seconds.",
    "loss": "The fraction of packets lost between the two hosts, one way, from 0 to 1.",
    "bw_mbit_s": "The bandwidth of the narrowest link, in Mbit/s. Null means no limit.",
    "background_per_s": "The rate of connections that other hosts open through each NAT, per second.",
    "links": "What impairs the links: `netem`, `nfqueue` or `none`.",
    "outcome": "The outcome, see below.",
    "reason": "Why the outcome is not `direct`, or why the file was not transferred. Null otherwise.",
    "connected": "Whether the hosts had a direct connection.",
    "transferred": "Whether the file arrived.",
    "bytes.direct": "Bytes from the sender to the receiver on direct connections. For TCP, the sequence numbers of "
    "SYN, FIN and RST give the number; for UDP, the lengths of the datagrams at the hosts do.",
    "bytes.edges": "Bytes from the sender to the receiver through edges.",
    **{f"prediction.{name}": meaning for name, meaning in _PREDICTION.items()},
    "control.direct": "Whether the lab's own sockets connected through the same NATs before the clients started. Null "
    "if they could not dial.",
    "control.reason": "Why the control could not dial.",
    "control.skew_s": "The measured skew of the control, in seconds.",
    **{
        f"control.prediction.{name}": f"For the control: {meaning[:1].lower()}{meaning[1:]}"
        for name, meaning in _PREDICTION.items()
    },
    "agrees": "Whether outcome and control match their predictions. False means a bug in a NAT, the client or the "
    "oracle. Null if the trial cannot decide: the prediction is `depends`, the client did not start to punch, it "
    "failed before it was connected, it did not use its direct connection, or it used UDP.",
    "timings_s.rendezvous": "From the start until the later host knew its peer, in seconds.",
    "timings_s.first_syn": "From `rendezvous` to the later first SYN, in seconds.",
    "timings_s.connected": "From the first SYN of either host until both were connected, in seconds.",
    "timings_s.agreed": "From the first SYN of either host until both had agreed on a connection, in seconds.",
    "timings_s.transferred": "From the first SYN of either host until the file was transferred, in seconds.",
    "timings_s.known_to_connected": "From when both hosts knew each other until both were connected, in seconds.",
    "timings_s.known_to_agreed": "From when both hosts knew each other until both had agreed, in seconds.",
    "cpu_pressure": "The share of time in which tasks waited for a CPU (PSI of the kernel) while the clients punched, "
    "from 0 to 1. Null if the kernel does not provide it.",
    "attempts": "connect() calls to the server-reflexive candidate (`srflx`), per host.",
    "chosen": "What the strategy `auto` found and chose, per host: an object with `nat` (the NAT in words), `strategy` "
    "and `why`. Null for other strategies.",
    "path.nats": "The NATs that the winning connection crossed. Null if there is none.",
    "path.edge": "Whether the winning connection crossed an edge.",
    "exchange.crossed": "Whether SYNs of both hosts crossed on the way. All fields of `exchange` are false or 0 if the "
    "client sent more packets than the lab records or analyzes.",
    "exchange.simultaneous_open": "Whether the connection is a TCP simultaneous open (RFC 9293 section 3.5).",
    "exchange.syns": "SYNs from host to host.",
    "exchange.resets": "RSTs that answered them.",
    "exchange.icmp": "ICMP errors that answered them.",
    "exchange.dropped": "SYNs from host to host that were dropped.",
    "capture": "The file name of the capture (pcapng). Only `punchlab run` writes it.",
    "capture_drops": "Packets that the capture lost.",
    "versions.punchlab": "The version of punchlab.",
    "versions.kernel": "The version of the kernel.",
    "versions.iptables": "The version of iptables.",
    "versions.nft": "The version of nft.",
    "versions.python": "The version of Python.",
}
_NO_COLUMN = {"attempts": "object of counts", "chosen": "object of objects"}
"""Objects whose columns depend on the names of the hosts, and their types."""


def page() -> str:
    """The page. Raises ValueError if a column or an outcome has no meaning here, or the other way around."""
    _check("column", {*names.COLUMNS, *_NO_COLUMN}, _MEANINGS)
    _check("outcome", names.OUTCOMES, _OUTCOMES)
    kinds = {name: kind.name.lower() for name, kind in names.COLUMNS.items()} | _NO_COLUMN
    return "\n\n".join(
        (
            "# The result record",
            (
                "`punchlab run` appends one JSON object per trial to `results.jsonl`. `punchlab trial --json` "
                "prints one. "
                "The same data is in `results.parquet` and `results.csv`, with one row per trial and one typed "
                "column per "
                "field. [Run a campaign](../how-to/campaigns.md#read-the-results) shows how to read them."
            ),
            (
                "A dot in a field name means a nested object in JSON: `timings_s.connected` is the field "
                "`connected` of "
                "the object `timings_s`. Times are in seconds. `schema` is the version of the record."
            ),
            (
                "Clients under test choose the text of many reasons. The lab therefore escapes control, "
                "bidirectional and "
                "invisible characters (`\\x1b`, `\\u202e`). In `results.csv`, a text that a spreadsheet would "
                "read as a "
                "formula starts with `'`."
            ),
            "## Outcomes",
            table(("outcome", "meaning"), [(code(name), _OUTCOMES[name]) for name in names.OUTCOMES]),
            "## Fields",
            table(
                ("field", "type", "meaning"),
                [(code(name), kinds[name], meaning) for name, meaning in _MEANINGS.items()],
            ),
        )
    )


def _check(kind: str, there: Collection[str], described: Mapping[str, str]) -> None:
    if missing := set(there) - described.keys():
        raise ValueError(f"{kind} without a meaning: {', '.join(sorted(missing))}")
    if unknown := described.keys() - set(there):
        raise ValueError(f"{kind} that does not exist: {', '.join(sorted(unknown))}")
