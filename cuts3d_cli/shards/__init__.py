"""The on-disk dataset format: base shards, one sidecar a stage, and a manifest beside each tar.

`names` finds shards, `reader` and `writer` move samples, `manifest` records how a tar came about.
"""
