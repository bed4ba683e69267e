from __future__ import annotations

import pytest

from pipelines.tables.metrics import METRICS
from pipelines.tables.page import cell_text, summarise
from pipelines.tables.render import Grid, html, latex, latex_text, markdown

GRID = Grid(["", "loss ↓ (nats)"], [["a_b", "1.0 ± 0.1 (3)"], ["a longer | label", "12.0 (1)"]])


def test_markdown_columns_line_up() -> None:
    lines = markdown(GRID).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("-: |")
    assert lines[2].startswith("| a_b ")


def test_markdown_keeps_a_bar_inside_its_cell() -> None:
    assert r"a longer \| label" in markdown(GRID)


def test_latex_escapes_every_special_character() -> None:
    assert latex_text(r"50 % of $x_1$ & {a} #2 ~ ^ \b") == (
        r"50 \% of \$x\_1\$ \& \{a\} \#2 \textasciitilde{} \textasciicircum{} \textbackslash{}b"
    )
    assert latex_text("1 ± 2 ↓ –") == r"1 $\pm$ 2 $\downarrow$ --"


def test_latex_is_a_booktabs_table_with_caption_and_label() -> None:
    text = latex(GRID, "Loss of a_b, 50 %.", "paper:table")
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\caption{Loss of a\_b, 50 \%.}",
        r"\label{tab:paper:table}",
    ):
        assert part in text
    assert r"\begin{tabular}{lr}" in text
    assert r"a\_b & 1.0 $\pm$ 0.1 (3) \\" in text
    assert "\\" not in latex(Grid(["x"], [["y"]]), "c", "l").splitlines()[0].replace("\\usepackage", "")


def test_html_escapes_markup() -> None:
    assert "&lt;b&gt;" in html(Grid(["<b>"], [["1 & 2"]]))
    assert "1 &amp; 2" in html(Grid(["<b>"], [["1 & 2"]]))


@pytest.mark.parametrize(
    ("metric", "numbers", "text"),
    [
        ("val_loss", {0: 1.0, 1: 2.0, 2: 3.0}, "2.0000 ± 1.0000 (3)"),
        ("val_loss", {0: 1.5}, "1.5000 (1)"),
        ("val_loss", {}, "–"),
        ("speedup", {0: None, 1: None}, "–"),
        ("speedup", {0: 0.5, 1: None, 2: 0.25}, "37.5 ± 17.7 (2 of 3)"),
        ("speedup", {0: 0.5, 1: None}, "50.0 (1 of 2)"),
        ("num_parameters", {0: 1234567.0, 1: 1234567.0}, "1.235 (2)"),
        ("vocab_size", {0: 32768.0, 1: 32768.0}, "32,768 (2)"),
        ("val_loss", {0: 2.0, 1: 2.0}, "2.0000 ± 0.0000 (2)"),
    ],
)
def test_cell_text(metric: str, numbers: dict[int, float | None], text: str) -> None:
    assert cell_text(numbers, METRICS[metric]) == text


def test_summary_of_a_cell_by_hand() -> None:
    assert summarise({0: 2.0, 1: 4.0, 2: 4.0, 3: 6.0}) == (4.0, pytest.approx((8 / 3) ** 0.5), 4)
    assert summarise({0: None, 1: 3.0}) == (3.0, None, 1)
    assert summarise({}) == (None, None, 0)
