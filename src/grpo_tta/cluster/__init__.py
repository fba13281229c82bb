"""The same work past one machine, on Ray Data."""
