"""What is in a tar: one module a kind, each with its members, encoding, decoding and flaws."""
