"""What scripts share on the command line: flags, one-line errors, signals."""
