"""The page of the result record. The fields come from the schema; each outcome must have a meaning here."""

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


def page() -> str:
    """The page. Raises ValueError if an outcome has no meaning here, or the other way around."""
    _check("outcome", names.OUTCOMES, _OUTCOMES)
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
                "the object `timings_s`. Times are in seconds. `schema` is the version of the record. "
                "`punchlab schema` prints the JSON Schema. Results of schema 1 can still be read."
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
            names.field_table().rstrip(),
        )
    )


def _check(kind: str, there: Collection[str], described: Mapping[str, str]) -> None:
    if missing := set(there) - described.keys():
        raise ValueError(f"{kind} without a meaning: {', '.join(sorted(missing))}")
    if unknown := described.keys() - set(there):
        raise ValueError(f"{kind} that does not exist: {', '.join(sorted(unknown))}")
