"""Runs work over shards: claims, worker processes, sidecars and manifests. Does not know what is in them."""
