"""What the user named becomes input shards (`input_shards`), and a shard of any kind becomes samples (`read_shard`)."""
