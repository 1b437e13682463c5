"""What is in a tar: one module a kind, each with its members, encode, decode and flaws."""
