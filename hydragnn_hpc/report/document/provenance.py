"""Provenance of results: configuration, versions, devices, hosts, runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import hydragnn_hpc
from hydragnn_hpc import yaml_files
from hydragnn_hpc.counts import counted
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.run import RunEnded, RunStarted, RunStopping
from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.event_log import read_log
from hydragnn_hpc.report.results.load import Results
from hydragnn_hpc.report.results.rows import stacked

HOSTS = 12
"""At most this many hosts are named."""
_NO_END = "no end is recorded: killed, or still running"


def provenance(results: Results) -> dict[str, str]:
    """Return what identifies the campaign and what it was trained with, as label and text."""
    trained = [m.result for m in results.members if m.result]
    frozen = results.frozen
    facts = {
        "campaign": frozen.campaign.name,
        "configuration (SHA-256)": frozen.hash,
        "data set": frozen.campaign.dataset,
        "data set (SHA-256)": frozen.dataset_sha256,
        "seed of the campaign": str(frozen.campaign.seed),
        "seeds of the members": "from campaign seed, variant and replica (BLAKE2b); in members.csv",
    }
    versions: dict[str, Counter[str]] = {}
    for result in trained:
        for package, version in result.versions.items():
            versions.setdefault(package, Counter())[version] += 1
    facts["versions"] = "; ".join(f"{package} {_distribution(count)}" for package, count in sorted(versions.items()))
    facts["devices"] = _devices(r.device for r in trained)
    facts["engines"] = _distribution(Counter(r.engine for r in trained))
    facts["threads per worker"] = _distribution(Counter(str(r.threads) for r in trained))
    facts["members per stack"] = f"up to {stacked(results)}"
    facts["hosts"] = _hosts(s.host for r in trained for s in r.sessions)
    facts["written with"] = f"hydragnn_hpc {hydragnn_hpc.__version__}"
    return {k: v for k, v in facts.items() if v}


def runs(results: Results) -> list[dict[str, str | None]]:
    """Return every run of the campaign: start, end, ranks, hosts, and everything else that its start event records."""
    table: list[dict[str, str | None]] = []
    for event in read_log(results.folder).entries:
        if isinstance(event, RunStarted):
            row = {"start": text.utc(event.time), "end": None, "reason": _NO_END}
            recorded = event.model_dump(mode="json", exclude={"time", "event"})
            table.append({**row, **{k: _words(v) for k, v in recorded.items()}})
        elif table and isinstance(event, RunStopping):
            table[-1]["reason"] = event.reason
        elif table and isinstance(event, RunEnded):
            table[-1]["end"] = text.utc(event.time)
            if table[-1]["reason"] == _NO_END:
                table[-1]["reason"] = "nothing left to do"
    return table


def configuration(results: Results) -> str:
    """Return the frozen configuration as YAML."""
    return yaml_files.dump(results.campaign.model_dump(mode="json"))


def _devices(devices: Iterable[Device]) -> str:
    names: Counter[str] = Counter()
    known: dict[str, set[str]] = {}
    for device in devices:
        names[device.label] += 1
        if device.uuid:
            known.setdefault(device.label, set()).add(device.uuid)
    return "; ".join(
        f"{counted(n, 'member')} on {f'{len(known[name])} x ' if name in known else ''}{name}"
        for name, n in names.most_common()
    )


def _hosts(names: Iterable[str]) -> str:
    hosts = sorted(set(names))
    if len(hosts) > HOSTS:
        return f"{len(hosts)}: {', '.join(hosts[:HOSTS])} and more"
    return ", ".join(hosts)


def _distribution(count: Counter[str]) -> str:
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{value} ({counted(n, 'member')})" for value, n in count.most_common())


def _words(value: Any) -> str:
    """Return a value of a record as a line of text."""
    return ", ".join(text.line(v) for v in value) if isinstance(value, list) else text.line(value)
