"""The HTTP service: images in, adapted predictions out (`grpo-tta serve`). The only importer of FastAPI and uvicorn."""
