"""The command line: one file per command group, each only parsing arguments and printing answers."""
