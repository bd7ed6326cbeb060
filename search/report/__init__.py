"""A run as one HTML page that needs nothing else: figures, tables and where they come from."""

from __future__ import annotations

from search.report.page import REPORT, page, write_report

__all__ = ["REPORT", "page", "write_report"]
