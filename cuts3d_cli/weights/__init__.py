"""Weight files: where they come from, the cache, and the one reader of strangers' files."""
