"""Bringing a run's tables up to its log, for those who read the files themselves."""

from __future__ import annotations

from search.store import RunLog, Store
from search.tables import verify, write_tables
from trainable.errors import LeaseHeldError, StoreError


def catch_up(store: Store) -> str:
    """Write the tables again where they are behind and nobody runs the run.

    Args:
        store: the run.

    Returns:
        Why the files are still behind; empty where they are not.
    """
    report = verify(store)
    if report.ok and not report.behind:
        return ""
    try:
        store.acquire(heartbeat=False)
    except LeaseHeldError:
        return f"the run is going on: its files follow within half a minute ({report.behind} events behind)"
    except StoreError as error:
        return f"the files stay {report.behind} events behind: {error}"
    try:
        write_tables(store, RunLog.open(store).state)
    except StoreError as error:
        return f"the files stay {report.behind} events behind: {error}"
    finally:
        store.release()
    return ""
