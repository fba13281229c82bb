"""Models as the engine needs them: stem, blocks, head and text; the only importers of open_clip and transformers."""
