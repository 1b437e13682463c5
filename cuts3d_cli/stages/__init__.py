"""The stages: each reads shards and writes one sidecar a shard."""
