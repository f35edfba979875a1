"""Bulk jobs on a Ray cluster: `cluster` joins it, `actor` makes shards, `front` hands shards out and counts outcomes."""
