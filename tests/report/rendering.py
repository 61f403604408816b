"""A campaign's folder with its report, and text that no page may interpret as markup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.write import write_report
from tests.report import making

EVIL = "<script>document.title='broken'</script> & \"quotes\" | `code` \x1b[31m"


@dataclass
class Rendered:
    """A campaign's folder, the report's content, and the files written."""

    folder: CampaignFolder
    content: Content
    files: list[Path]


def render(out: Path, **shape) -> Rendered:
    """Make a campaign's folder and its report."""
    making.make(out, **shape)
    content, files = write_report(out)
    return Rendered(content.results.folder, content, files)
