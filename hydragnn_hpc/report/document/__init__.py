"""The report as documents: the page, the supplement, the summary."""
