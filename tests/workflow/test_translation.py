"""Translation runs where there is parallel text, and elsewhere the main job says that it does not."""

from __future__ import annotations

from pathlib import Path


def test_a_folder_of_parallel_text_adds_translation_to_the_graph(checkout: Path, snakemake, tmp_path: Path) -> None:
    folder = tmp_path / "parallel"
    folder.mkdir()
    for stem in ("train", "val", "test_2016_flickr"):
        for language, line in (("en", "a dog sees the ball"), ("de", "ein hund sieht den ball")):
            lines = [f"{line} {number % 9}\n" for number in range(40)]
            (folder / f"{stem}.{language}").write_text("".join(lines), encoding="utf-8")
    wanted = "results/translation/scaffold_bpe/default/seed0"
    done = snakemake(checkout, wanted, overlay={"folders": {"translation": str(folder)}})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "not run:" not in done.stderr
    assert (checkout / wanted / "translations.txt").read_text(encoding="utf-8").count("\n") == 8


def test_without_one_the_main_job_and_the_page_say_so(finished_smoke: Path, smoke_run: tuple[Path, str]) -> None:
    assert "not run: papers/scaffold_bpe/translation, which needs folders.translation" in smoke_run[1]
    page = (finished_smoke / "results/tables/scaffold_bpe/translation.md").read_text(encoding="utf-8")
    assert "Not run: it needs folders.translation" in page
    claims = (finished_smoke / "results/claims.csv").read_text(encoding="utf-8")
    line = next(line for line in claims.splitlines() if "scaffold_translates_better" in line)
    assert "not run at this scale" in line
