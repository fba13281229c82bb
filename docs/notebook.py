"""The walk-through: `python docs/notebook.py` runs it and keeps its outputs, and MkDocs shows it as a page by these hooks.

The outputs are kept without times and counters, so that the file changes only where an answer does.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("walkthrough.ipynb")
PAGE = "walkthrough.md"
_STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)


def executed(text: str, folder: Path) -> dict[str, Any]:
    """The notebook with the outputs that it has on this machine. It is run in `folder`."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.reads(text, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=240, kernel_name="python3", resources=where, record_timing=False).execute()
    for cell in book.cells:
        outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]  # warnings of this machine
        for output in outputs:
            output.get("data", {}).pop("image/jpeg", None)
        cell.update({"outputs": outputs} if cell.cell_type == "code" else {})
    plain: dict[str, Any] = json.loads(nbformat.writes(book))
    plain["metadata"]["language_info"] = {"name": "python"}  # and not the patch version of this machine
    return plain


def as_markdown(book: dict[str, Any]) -> str:
    """The notebook as a page: code, and below it what it printed, drew or showed."""
    parts: list[str] = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="what the code above shows" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        table = _STYLE.sub("", "".join(data["text/html"]))
        return "\n".join(line.strip() for line in table.splitlines() if line.strip())
    return f"```text\n{''.join(data.get('text/plain', '')).rstrip()}\n```"


def on_files(files: Any, *, config: Any) -> Any:
    """A hook of MkDocs: the page stands beside the others."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=as_markdown(json.loads(NOTEBOOK.read_text(encoding="utf-8")))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A hook of MkDocs: links to the notebook lead to its page."""
    return markdown.replace(f"]({NOTEBOOK.name})", f"]({PAGE})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        book = executed(NOTEBOOK.read_text(encoding="utf-8"), Path(folder))
    options.out.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
