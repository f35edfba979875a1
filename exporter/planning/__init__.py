"""The plan of ``--dry-run``: what an export would do and need, without downloading or writing anything."""
