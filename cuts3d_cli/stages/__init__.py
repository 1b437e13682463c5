"""One module a subcommand: what it reads, what it writes, one run()."""
