"""A data set of the Hugging Face Hub, or a local folder in its layout, streamed through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.data.corpus import Document
from pipelines.runs.errors import RetraceError


def hub_documents(
    name: str, config: str | None, revision: str | None, split: str, text_field: str
) -> Iterator[Document]:
    """One document a row, in the data set's own order; nothing is kept in memory or on disk beyond the stream.

    Raises:
        RetraceError: no network, no such data set, configuration or split, or rows without the text field.
    """
    import datasets

    try:
        stream = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        for number, row in enumerate(stream):
            text = row.get(text_field)
            if not isinstance(text, str):
                raise RetraceError(
                    f"{name}: row {number} has no text in field {text_field!r} (there is: {', '.join(sorted(row))}): "
                    "set data.text_field"
                )
            if text.strip():
                yield Document(text, f"{Path(name).name}:{number}", config or Path(name).name)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as fault:
        reason = str(fault).strip().split("\n")[0]
        raise RetraceError(
            f"data.name {name!r} (split {split!r}) could not be read ({type(fault).__name__}: {reason}): check the "
            "name, configuration and split; source hub needs the internet, source local and embedded do not"
        ) from None
