"""The benchmarks of the field as tasks: read from the layouts in use, checked, never silently incomplete or misordered."""
