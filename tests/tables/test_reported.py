from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.tables.reported import beside, read_reported

HEAD = "table,row,column,compares_with,value,unit,where,known_by,source,note\n"


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "reported.csv"
    path.write_text(HEAD + "".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_numbers_are_shown_as_printed(tmp_path: Path) -> None:
    path = write(tmp_path, "t,stack,speedup,speedup,49.10,%,Figure 3,paper,arXiv,")
    assert read_reported(path)[0].text == "49.10 %"


def test_beside_a_column_stands_one_metric_for_every_row(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "t,other,loss at 1B,val_loss,9,,T1,paper,s,",
        "t,stack,loss at 3B,val_loss,2.1,,T1,paper,s,",
        "t,stack,loss at 7B,val_loss,1.9,,T1,paper,s,",
        "t,scratch,loss at 3B,val_loss,2.2,,T1,paper,s,",
        "t,scratch,loss at 3B,val_loss,2.3,,T2,paper,s,a second time",
        "t,scratch,loss at 9B,,7,,T2,paper,s,",
    )
    found = beside(read_reported(path), ["scratch", "stack"], "val_loss")
    assert {row: each.value for row, each in found.items()} == {"stack": "2.1", "scratch": "2.2"}
    assert beside(read_reported(path), ["scratch", "stack"], "train_loss") == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("t,r,c,,1,,T1,guessed,s,", "known_by 'guessed' is none of paper, code"),
        ("t,r,c,,about 3,,T1,paper,s,", "value 'about 3' is not a number"),
        ("t,r,c,,nan,,T1,paper,s,", "value 'nan' is not a number"),
        ("t,r,c,,1,,,paper,s,", "where is empty"),
        ("t,r,c,,1,,T1,paper,,", "source is empty"),
        ("t,r,c,val_los,1,,T1,paper,s,", "compares_with: unknown metric 'val_los'"),
        ("t,r,c,,1,,T1,paper,s", "needs 10 values"),
        ("t,r,c,,1,,T1,paper,s,a,b", "needs 10 values"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path: Path, line: str, fault: str) -> None:
    path = write(tmp_path, "t,r,c,,1,,T1,paper,s,", line)
    with pytest.raises(RetraceError, match=fault) as refused:
        read_reported(path)
    assert f"{path}:3" in str(refused.value)


def test_a_wrong_header_is_refused_with_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    path.write_text("table,row\n", encoding="utf-8")
    with pytest.raises(RetraceError, match="first line must be table,row,column,compares_with"):
        read_reported(path)
