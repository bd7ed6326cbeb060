"""The tables of a run, derived from its log alone: written by the driver, read by anybody."""

from __future__ import annotations

from search.tables.checking import TableReport, verify
from search.tables.columns import SCHEMA_VERSION, trials_table
from search.tables.history import FOLDER, history_table
from search.tables.loading import best_config, load_history, load_trials
from search.tables.writer import TRIALS, TableWriter, write_tables

__all__ = [
    "FOLDER",
    "SCHEMA_VERSION",
    "TRIALS",
    "TableReport",
    "TableWriter",
    "best_config",
    "history_table",
    "load_history",
    "load_trials",
    "trials_table",
    "verify",
    "write_tables",
]
