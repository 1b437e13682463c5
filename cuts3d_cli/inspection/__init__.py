"""Looks at what is there: shards, one photo, this machine."""
