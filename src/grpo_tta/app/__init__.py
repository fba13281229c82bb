"""The web page (`grpo-tta app`): what adaptation does to one image, step by step. The only importer of Gradio."""
