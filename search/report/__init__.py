"""A run as one HTML page that needs nothing else, and its charts as pictures and tables."""

from __future__ import annotations

from search.report.page import REPORT, page, write_report

__all__ = ["REPORT", "page", "write_report"]
