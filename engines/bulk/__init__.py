"""Embedding jobs of any size: shards of inputs become shards of embeddings, which many processes and machines can share.

The way of the data: `engines.shards` (what the user named becomes shards, and a shard becomes samples) → `read_ahead` →
`pipeline` (samples become rows with embeddings) → `parquet_layout`, `npy_layout` (rows become files, published by one
rename). `maker` decides which shards need work; `job` runs all of that in this process, `engines.ray` in the actors of a Ray
cluster. Output folders, URLs and leases are in `engines.files`.
"""
