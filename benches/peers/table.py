"""The rows of the benchmark, and the one table of them."""

from dataclasses import dataclass, field

# Other operations are named as the store counts them.
VERBS = {
    "DeleteMany": "DELETE of many",
    "CreateUpload": "begin upload",
    "UploadPart": "PUT of part",
    "UploadPartCopy": "COPY of part",
    "CompleteUpload": "complete upload",
    "AbortUpload": "abort upload",
}
HEAD = ("Workload", "On", "Command", "to local", "to best peer", "Safe", "At rest", "to best peer", "Requests", "MB sent", "MB fetched", "CPU")


@dataclass
class Row:
    """A workload on one system. Seconds count from the beginning of the command."""

    workload: str
    system: str
    command: float | None = None
    safe: float | None = None
    rest: float | None = None
    requests: dict = field(default_factory=dict)
    processor: float | None = None
    error: str = ""

    def __str__(self):
        times = (("", self.command), (", safe ", self.safe), (", at rest ", self.rest))
        said = "".join(f"{what}{number(value)} s" for what, value in times if value is not None)
        return f"{self.system}: {self.workload}: {self.error or said}"


def number(value):
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def ratio(value, other):
    return number(value / other) if value is not None and other else "–"


def least(values):
    return min((value for value in values if value is not None), default=None)


def cells(row, local, best_command, best_rest):
    counts = row.requests.get("operations", {})
    sent, fetched = (number(row.requests[way] / 1e6) if counts else "–" for way in ("sent", "fetched"))
    verbs = ", ".join(f"{count} {VERBS.get(verb, verb.upper())}" for verb, count in counts.items())
    times = [row.error.replace("|", "/")[:100] or number(row.command), ratio(row.command, local), ratio(row.command, best_command)]
    rest = [number(row.safe), number(row.rest), ratio(row.rest, best_rest)]
    return [row.workload, row.system, *times, *rest, verbs or "–", sent, fetched, number(row.processor)]


def table(rows):
    """Markdown. The best peer is the fastest of the systems but s3vol and the local disk."""
    lines = [HEAD, ["---"] * len(HEAD)]
    for workload in dict.fromkeys(row.workload for row in rows):
        same = [row for row in rows if row.workload == workload]
        peers = [row for row in same if row.system not in ("local", "s3vol")]
        local = next((row.command for row in same if row.system == "local"), None)
        command = least(row.command for row in peers)
        rest = least(row.rest for row in peers)
        lines += [cells(row, local, command, rest) for row in same]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
