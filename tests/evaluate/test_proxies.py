"""The proxies are what they say: cloze, next sentence and word order, balanced and never seen in training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.evaluate.prose import (
    LONGEST_BLOCK,
    SENTENCES_OF_A_RUN,
    Document,
    held_out_documents,
    paragraphs,
    sentences,
    words,
)
from pipelines.evaluate.proxies import (
    COMMON_WORDS,
    LENGTH_TOLERANCE,
    MIN_CLOZE_WORDS,
    cloze,
    next_sentence,
    word_order,
)
from pipelines.evaluate.spec import EMBEDDED_TASKS, TasksSpec
from pipelines.evaluate.tasks import tasks
from pipelines.runs.errors import RetraceError

# Without shrinking: it takes minutes on a whole corpus, and the first failing one is small enough to read.
PROPERTY = settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.generate))
WORDS = st.sampled_from(
    [
        "the",
        "of",
        "into",
        "river",
        "mountain",
        "picture",
        "copper",
        "silver",
        "walks",
        "sleeps",
        "quiet",
        "bright",
        "window",
        "garden",
        "with",
        "engine",
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    """Modules of paragraphs of sentences of words."""
    sentence = st.lists(WORDS, min_size=3, max_size=14).map(lambda ws: " ".join(["Every", *ws]) + ".")
    paragraph = st.lists(sentence, min_size=1, max_size=5).map(tuple)
    modules = draw(st.lists(st.lists(paragraph, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
    return [Document(f"m{number}", "d", parts) for number, parts in enumerate(modules)]


def whole(document: Document) -> list[str]:
    return [" ".join(paragraph) for paragraph in document.paragraphs]


@given(documents(), st.integers(0, 2**32))
@PROPERTY
def test_a_cloze_target_ends_a_held_out_passage_and_was_used_in_its_context(found: list[Document], seed: int) -> None:
    by_id = {document.id: document for document in found}
    for row in cloze(found, np.random.default_rng(seed), None):
        before = [each.casefold() for each in words(row["context"])]
        assert row["target"].casefold() in before[:-1]
        assert row["target"].casefold() != before[-1]
        assert row["target"].casefold() not in COMMON_WORDS
        assert row["target"].isalpha()
        assert len(row["target"]) >= 4
        assert len(before) >= MIN_CLOZE_WORDS
        assert any(f"{row['context']} {row['target']}." in text for text in whole(by_id[row["id"]]))


@given(documents(), st.integers(0, 2**32))
@PROPERTY
def test_a_next_sentence_follows_its_context_and_the_others_come_from_other_modules(
    found: list[Document], seed: int
) -> None:
    by_id = {document.id: document for document in found}
    for row in next_sentence(found, np.random.default_rng(seed), None):
        gold = row["choices"][row["gold"]]
        assert any(f"{row['query']} {gold}" in text for text in whole(by_id[row["id"]]))
        assert len(set(row["choices"])) == 4
        for other in set(row["choices"]) - {gold}:
            owners = {d.id for d in found for p in d.paragraphs if other in p}
            assert owners - {row["id"]}
            assert other not in row["query"]
            assert abs(len(other.encode()) - len(gold.encode())) <= LENGTH_TOLERANCE * len(gold.encode())


@given(documents(), st.integers(0, 2**32))
@PROPERTY
def test_a_word_order_pair_differs_in_two_neighbouring_words(found: list[Document], seed: int) -> None:
    held_out = {s for d in found for p in d.paragraphs for s in p}
    for row in word_order(found, np.random.default_rng(seed), None):
        good, bad = row["choices"][row["gold"]].split(" "), row["choices"][1 - row["gold"]].split(" ")
        different = [i for i in range(len(good)) if good[i] != bad[i]]
        assert " ".join(good) in held_out
        assert len(different) == 2
        assert different[1] == different[0] + 1
        assert [good[i] for i in different] == [bad[i] for i in reversed(different)]


@pytest.mark.parametrize(("task", "choices"), [("next_sentence_proxy", 4), ("word_order_proxy", 2)])
def test_gold_is_at_every_position_equally_often(
    make_corpus: Callable[..., Path], make_job: Callable, task: str, choices: int
) -> None:
    job = make_job("tasks")
    tasks(TasksSpec(tasks=(task,), max_items=62), {"corpus": make_corpus()}, job)
    rows = [json.loads(line) for line in (job.out / f"{task}.jsonl").read_text().splitlines()]
    counts = Counter(row["gold"] for row in rows)
    assert len(rows) == 62
    assert set(counts) == set(range(choices))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_no_item_repeats_a_sentence_of_the_train_split(make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus()
    held = [json.loads(line) for line in (corpus / "validation.jsonl").read_text().splitlines()]
    # Every second paragraph was seen in training, in other case and punctuation.
    seen = [text for row in held for text in row["text"].split("\n\n")[::2]]
    copy = {"text": "\n\n".join(seen).replace(" winter", " WINTER,"), "id": "train.copy", "domain": "train"}
    (corpus / "train.jsonl").write_text(json.dumps(copy) + "\n")
    found = held_out_documents(corpus)
    known = [sentence for text in seen for sentence in sentences(text)]
    assert (
        sum(len(document.paragraphs) for document in found) == sum(len(row["text"].split("\n\n")) for row in held) // 2
    )
    for build in (cloze, next_sentence, word_order):
        rows = build(found, np.random.default_rng(0), None)
        assert len(rows) > 20
        for row in rows:
            texts = [row.get("context", ""), row.get("query", ""), *row.get("choices", [])]
            assert not any(sentence in text for text in texts for sentence in known)


def test_a_module_in_both_splits_is_refused(make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus(train=[{"text": "Something else entirely.", "id": "held.module3", "domain": "held"}])
    with pytest.raises(RetraceError, match=r"'held\.module3' is in train\.jsonl and in validation\.jsonl"):
        held_out_documents(corpus)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_seed_alone_decides_the_bytes(make_corpus: Callable[..., Path], make_job: Callable) -> None:
    corpus = make_corpus()
    found = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        job = make_job(name)
        tasks(TasksSpec(max_items=40, seed=seed), {"corpus": corpus}, job)
        found.append(folder_bytes(job.out))
    assert found[0] == found[1]
    assert all(found[0][f"{task}.jsonl"] != found[2][f"{task}.jsonl"] for task in EMBEDDED_TASKS)


def test_naming_fewer_tasks_leaves_the_others_as_they_are(make_corpus: Callable[..., Path], make_job: Callable) -> None:
    corpus, all_of_them, one = make_corpus(), make_job("all"), make_job("one")
    tasks(TasksSpec(max_items=30), {"corpus": corpus}, all_of_them)
    tasks(TasksSpec(max_items=30, tasks=("word_order_proxy",)), {"corpus": corpus}, one)
    name = "word_order_proxy.jsonl"
    assert (all_of_them.out / name).read_bytes() == (one.out / name).read_bytes()
    assert not (one.out / "cloze_proxy.jsonl").exists()


def test_chance_levels_and_sizes_are_in_the_index(make_corpus: Callable[..., Path], make_job: Callable) -> None:
    job = make_job("tasks")
    final = tasks(TasksSpec(max_items=40), {"corpus": make_corpus()}, job)
    cards = json.loads((job.out / "harness_tasks.json").read_text())["tasks"]
    assert list(cards) == list(EMBEDDED_TASKS)
    assert all(card["proxy"] and card["num_items"] == 40 for card in cards.values())
    assert cards["next_sentence_proxy"]["chance"] == 0.25
    assert cards["word_order_proxy"]["chance"] == 0.5
    # One word of the context at random: about one in the number of its distinct words.
    assert 1 / 60 < cards["cloze_proxy"]["chance"] < 1 / 10
    assert final["num_tasks"] == 3
    assert final["num_items"] == 120


def test_too_small_a_validation_split_says_how_many_items_it_gave(
    make_corpus: Callable[..., Path], make_job: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(modules=5, paragraphs=2)
    with pytest.raises(RetraceError, match="cloze_proxy: only 10 items could be built, min_items is 20"):
        tasks(TasksSpec(), {"corpus": corpus}, make_job("refused"))
    tasks(TasksSpec(min_items=5, tasks=("cloze_proxy",)), {"corpus": corpus}, make_job("small"))
    assert "cloze_proxy: 10 items, fewer than max_items 200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "A b.", "id": "x"}\n', r"validation\.jsonl:1: field 'domain' is missing"),
        (b'{"text": 1, "id": "x", "domain": "d"}\n', r"validation\.jsonl:1: field 'text' must be str"),
        (b"not json\n", r"validation\.jsonl:1: not JSON"),
        (b"[1]\n", r"validation\.jsonl:1: not a JSON object"),
        (b'{"text": "\xff"}\n', r"validation\.jsonl:1: not valid UTF-8"),
    ],
)
def test_a_broken_corpus_line_is_named(make_corpus: Callable[..., Path], line: bytes, message: str) -> None:
    corpus = make_corpus()
    (corpus / "validation.jsonl").write_bytes(line)
    with pytest.raises(RetraceError, match=message):
        held_out_documents(corpus)


def test_prose_is_told_from_code_and_split_at_sentence_ends() -> None:
    text = (
        "Returns the sum, e.g. of two.  Nothing else\nhappens here!\n\n>>> f(1)\n2\n\nshape : int\n\nA {brace} is code."
    )
    assert paragraphs(text) == ["Returns the sum, e.g. of two. Nothing else happens here!"]
    assert sentences(paragraphs(text)[0]) == ["Returns the sum, e.g. of two.", "Nothing else happens here!"]
    assert sentences("See Fig. A for this. Then stop.") == ["See Fig. A for this.", "Then stop."]


def test_a_book_without_blank_lines_is_cut_at_its_sentences() -> None:
    told = [f"On day {'i' * n} the old ship left the harbour for a long journey." for n in range(1, 101)]
    book = "\n".join(["half a sentence from before.", *told[:50], '"No," he said -- "never."', *told[50:], "And he"])
    assert len(book) > LONGEST_BLOCK
    runs = [sentences(each) for each in paragraphs(book)]
    assert [sentence for run in runs for sentence in run] == told  # what is no prose is left out, everything else stays
    assert {len(run) for run in runs} == {SENTENCES_OF_A_RUN, 2}
    assert told[49] == runs[6][-1]
    assert told[50] == runs[7][0]  # what is no prose ends a run: nothing is joined over it


def test_a_text_without_blank_lines_gives_items_of_every_task(
    make_corpus: Callable[..., Path], make_job: Callable
) -> None:
    corpus = make_corpus(modules=12, paragraphs=40)
    held_out = corpus / "validation.jsonl"
    held_out.write_text(held_out.read_text().replace("\\n\\n", "\\n"))
    assert len(json.loads(held_out.read_text().splitlines()[0])["text"]) > LONGEST_BLOCK
    job = make_job("tasks")
    assert tasks(TasksSpec(max_items=40), {"corpus": corpus}, job)["num_items"] == 120
