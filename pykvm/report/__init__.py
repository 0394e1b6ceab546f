"""Reports about a machine, for people."""
