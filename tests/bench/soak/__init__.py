"""A soak: processes of four kinds are killed at random instants, on a disk and on object storage."""
