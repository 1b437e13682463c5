"""The commands: each takes its options and a configuration to a stage, and prints what became of it."""
