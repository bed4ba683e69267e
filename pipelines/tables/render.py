"""Grids of text as Markdown, LaTeX and HTML, the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "–": "--",
}

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5em;color:#222}table{border-collapse:collapse;margin:1em 0}"
    "th,td{padding:.3em .8em;border-bottom:1px solid #ddd;vertical-align:top}th{border-bottom:2px solid #444}"
    ".number{text-align:right;font-variant-numeric:tabular-nums}td.number{white-space:nowrap}.text{text-align:left}"
    "p,li{max-width:60em}"
)


@dataclass(frozen=True)
class Grid:
    """A header and rows of text; the first ``num_text_columns`` are aligned left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_text_columns: int = 1


def markdown(grid: Grid) -> str:
    """A Markdown table whose columns line up in a plain text editor too."""
    lines = [[_cell(text) for text in line] for line in (grid.header, *grid.rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(grid.header))]
    left = [place < grid.num_text_columns for place in range(len(widths))]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, left, strict=True)]
    padded = [
        [cell.ljust(width) if text else cell.rjust(width) for cell, width, text in zip(line, widths, left, strict=True)]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def latex(grid: Grid, caption: str, label: str) -> str:
    """A LaTeX table in the style of booktabs, scaled down to the line where it is wider."""
    alignment = "".join("l" if place < grid.num_text_columns else "r" for place in range(len(grid.header)))
    body = [" & ".join(latex_text(cell) for cell in line) + r" \\" for line in (grid.header, *grid.rows)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,adjustbox}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(caption)}}}",
            rf"  \label{{tab:{label}}}",
            r"  \begin{adjustbox}{max width=\linewidth}",
            rf"  \begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            f"    {body[0]}",
            r"    \midrule",
            *(f"    {line}" for line in body[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"  \end{adjustbox}",
            r"\end{table}",
            "",
        ]
    )


def html(grid: Grid) -> str:
    """An HTML table."""
    left = [place < grid.num_text_columns for place in range(len(grid.header))]

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (
            f'<{tag} class="{"text" if text else "number"}">{escape(cell)}</{tag}>'
            for cell, text in zip(cells, left, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    rows = "\n".join(line(row, "td") for row in grid.rows)
    return f"<table>\n<thead>{line(grid.header, 'th')}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"


def html_page(title: str, body: str) -> str:
    """A page of its own, with nothing to load."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'


def latex_text(text: str) -> str:
    """Text with every character that means something to LaTeX escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
