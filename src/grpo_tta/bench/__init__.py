"""Tasks through methods into records on disk."""
