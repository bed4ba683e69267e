"""Labelled tasks: proxies split by module, published folders, and labels that must agree with the data."""

import json
import shutil
from collections import Counter

import pytest

from pipelines.data.labelled import TASK_SPLITS, Example, bag_of_words_accuracy, majority_accuracy
from pipelines.data.proxies import MAX_WORDS, MIN_WORDS, PROXIES
from pipelines.runs.errors import RetraceError

SIZES = {"max_train": 60, "max_validation": 20, "max_test": 30}


@pytest.fixture(scope="module")
def proxies(run_verb, tmp_path_factory):
    out = tmp_path_factory.mktemp("proxies") / "tasks"
    return out, run_verb("tasks", SIZES, out)


def test_every_proxy_is_balanced_sized_and_says_that_it_is_one(proxies, read_lines):
    out, final = proxies
    listing = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert [card["name"] for card in listing["tasks"]] == list(PROXIES)
    assert final["num_tasks"] == len(PROXIES) >= 4
    for card in listing["tasks"]:
        assert card["proxy"] is True
        assert card == json.loads((out / card["name"] / "task.json").read_text(encoding="utf-8"))
        for split, size in zip(TASK_SPLITS, SIZES.values(), strict=True):
            lines = read_lines(out / card["name"] / f"{split}.jsonl")
            counts = Counter(line["label"] for line in lines)
            assert set(counts) == set(card["labels"])
            assert len(set(counts.values())) == 1
            assert card[f"num_{split}"] == len(lines) == size // len(card["labels"]) * len(card["labels"])
            assert all(MIN_WORDS <= len(line["text"].split(" ")) <= MAX_WORDS for line in lines)


def test_no_text_of_a_test_split_is_trained_on_in_any_task(proxies, read_lines):
    out, _ = proxies
    texts = {
        split: {line["text"] for name in PROXIES for line in read_lines(out / name / f"{split}.jsonl")}
        for split in TASK_SPLITS
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]


def test_a_module_gives_to_one_split_only(read_lines, run_verb, tmp_path, monkeypatch):
    import pipelines.data.proxies as room
    from pipelines.data.docstrings import parse_module

    sources = {}

    def remember(path):
        sources[path] = " ".join(path.read_text(encoding="utf-8", errors="ignore").split())
        return parse_module(path)

    monkeypatch.setattr(room, "parse_module", remember)
    run_verb("tasks", {**SIZES, "tasks": ["returns"]}, tmp_path / "tasks")
    splits_of = {}
    for split in TASK_SPLITS:
        for line in read_lines(tmp_path / "tasks" / "returns" / f"{split}.jsonl"):
            opening = " ".join(line["text"].split(" ")[:8])
            holders = [path for path, text in sources.items() if opening in text]
            # A docstring copied into several modules could have come from any of them.
            if len(holders) == 1:
                splits_of.setdefault(holders[0], set()).add(split)
    assert len(splits_of) > 20
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_labels_follow_from_the_code():
    import ast

    from pipelines.data.proxies import Described

    def label(task, source, package="numpy"):
        node = ast.parse(source).body[0]
        return PROXIES[task].label(Described(package, "class" if isinstance(node, ast.ClassDef) else "method", node))

    assert label("returns", "def f():\n 'D.'\n return 1") == "a value"
    assert label("returns", "def f():\n 'D.'\n def g():\n  return 1\n return") == "nothing"
    assert label("returns", "def f():\n 'D.'\n yield 1") is None
    assert label("returns", "def f():\n 'D.'") is None
    assert label("arguments", "def f(self): pass") == "without input"
    assert label("arguments", "def f(cls, *, a): pass") == "with input"
    assert label("arguments", "async def f(**k): pass") == "with input"
    assert label("kind", "class C: pass") == "class"
    assert label("kind", "def f(): pass") == "function"
    assert label("topic", "def f(): pass") == "mathematics"
    assert label("topic", "def f(): pass", package="python") is None
    assert label("package", "def f(): pass", package="scipy") == "scipy"
    assert label("origin", "def f(): pass", package="python") == "standard library"


def test_texts_do_not_name_the_package_that_is_asked_for(proxies, read_lines):
    out, _ = proxies
    for split in TASK_SPLITS:
        for line in read_lines(out / "package" / f"{split}.jsonl"):
            assert line["label"].casefold() not in line["text"].casefold()


def test_proxies_are_the_same_each_time_and_others_for_another_seed(proxies, run_verb, tmp_path):
    out, _ = proxies
    run_verb("tasks", SIZES, tmp_path / "again")
    run_verb("tasks", {**SIZES, "seed": 1}, tmp_path / "other")
    for path in sorted(out.rglob("*.json*")):
        if path.name != "run.json":
            assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()
    name = "topic/train.jsonl"
    assert (tmp_path / "other" / name).read_bytes() != (out / name).read_bytes()


def test_a_label_that_no_package_gives_is_named(run_verb, tmp_path):
    with pytest.raises(RetraceError, match=r"task topic: .* no train example of label 'learning'.*data\.packages"):
        run_verb("tasks", {"tasks": ["topic"], "packages": ["networkx"]}, tmp_path / "tasks")


def test_unknown_tasks_are_refused_with_those_there_are(run_verb, tmp_path):
    with pytest.raises(RetraceError, match=r"unknown task 'mood'; embedded are: topic, kind"):
        run_verb("tasks", {"tasks": ["mood"]}, tmp_path / "tasks")
    with pytest.raises(RetraceError, match="--folder is missing"):
        run_verb("tasks", {"source": "local"}, tmp_path / "tasks")


def test_baselines_equal_what_they_are_by_hand():
    train = [Example("good fine film", "good")] * 3 + [Example("bad poor film", "bad")] * 2
    test = [Example("poor bad", "bad"), Example("fine", "good"), Example("bad", "good")]
    assert majority_accuracy(train, test) == pytest.approx(2 / 3)
    assert bag_of_words_accuracy(train, test) == pytest.approx(2 / 3)
    tied = [Example("x", "b"), Example("y", "a")]
    assert majority_accuracy(tied, [Example("x", "a")]) == 1


@pytest.fixture
def folder(tmp_path):
    """A small folder in both published layouts."""
    for draw in (42, 142):
        path = tmp_path / "tasks" / "fewshot" / "news" / str(draw)
        path.mkdir(parents=True)
        for name, count in (("train", 6), ("valid", 4), ("test", 8)):
            lines = [f"{name} text {i} of draw {draw}\t{'sport' if i % 2 else 'world news'}\n" for i in range(count)]
            (path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    path = tmp_path / "tasks" / "cl"
    path.mkdir()
    rows = [{"label": "Good" if i % 2 else "Bad", "sentence": f"line {i}\nof a review"} for i in range(20)]
    (path / "review.train.json").write_text(json.dumps(rows), encoding="utf-8")
    (path / "review.test.json").write_text(json.dumps(rows[:5]), encoding="utf-8")
    (path / "review.labels.json").write_text('["Good", "Bad"]', encoding="utf-8")
    return tmp_path / "tasks"


def build(run_verb, folder, **spec):
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    run_verb("tasks", {"source": "local", **spec}, out, folder=folder)
    return out


def test_both_layouts_are_read_and_validation_is_taken_from_training(run_verb, folder, read_lines):
    out = build(run_verb, folder)
    listing = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert [card["name"] for card in listing["tasks"]] == ["news", "review"]
    assert not any(card["proxy"] for card in listing["tasks"])
    news = read_lines(out / "news" / "train.jsonl")
    assert {(line["text"], line["label"]) for line in news} == {
        (f"train text {i} of draw 42", "sport" if i % 2 else "world news") for i in range(6)
    }
    train, validation = (read_lines(out / "review" / f"{split}.jsonl") for split in ("train", "validation"))
    assert (len(train), len(validation)) == (16, 4)
    assert len({line["text"] for line in train + validation}) == 20
    assert json.loads((out / "review" / "task.json").read_text())["labels"] == ["Good", "Bad"]


def test_tasks_order_draw_and_sizes_are_taken_from_the_spec(run_verb, folder, read_lines):
    out = build(run_verb, folder, tasks=["review", "news"], draw=142, max_train=4, max_test=3)
    listing = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert [card["name"] for card in listing["tasks"]] == ["review", "news"]
    assert all("draw 142" in line["text"] for line in read_lines(out / "news" / "test.jsonl"))
    assert [card["num_train"] for card in listing["tasks"]] == [4, 4]
    assert [card["num_test"] for card in listing["tasks"]] == [3, 3]


def edit_json(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))), encoding="utf-8")


def unlabelled(rows):
    return [{"label": "Good", "sentence": row["sentence"]} for row in rows]


BAD = {
    "a label in the data that is not declared": (
        lambda f: edit_json(f / "cl/review.test.json", lambda rows: [{**rows[0], "label": "Fair"}, *rows]),
        r"task review: .*review\.test\.json has label 'Fair', which is not declared \(Good, Bad\)",
    ),
    "a declared label without examples": (
        lambda f: edit_json(f / "cl/review.train.json", unlabelled),
        r"task review: .*review\.train\.json has no example of the declared label 'Bad'",
    ),
    "one label only": (
        lambda f: edit_json(f / "cl/review.labels.json", lambda labels: labels[:1]),
        r"task review: .* has fewer than two labels",
    ),
    "a missing file": (
        lambda f: (f / "cl/review.labels.json").unlink(),
        r"task review: .*review\.labels\.json is missing",
    ),
    "a missing few-shot file": (
        lambda f: (f / "fewshot/news/42/valid.txt").unlink(),
        r"task news: .*42/valid\.txt is missing",
    ),
    "a test label that training lacks": (
        lambda f: (f / "fewshot/news/42/test.txt").write_text("some text\tweather\n"),
        r"task news: .*test\.txt has label 'weather', which is not declared \(sport, world news\)",
    ),
    "a line without a tab": (
        lambda f: (f / "fewshot/news/42/train.txt").write_text("text\tsport\nno label here\n"),
        r"task news: .*train\.txt:2 is not `text<TAB>label`",
    ),
    "an empty split": (
        lambda f: (f / "fewshot/news/42/valid.txt").write_text(""),
        r"task news: .*valid\.txt has no validation examples",
    ),
    "broken JSON": (
        lambda f: (f / "cl/review.train.json").write_text('[{"label": "Good",\n'),
        r"task review: .*review\.train\.json:2: broken JSON",
    ),
    "an item without its fields": (
        lambda f: edit_json(f / "cl/review.train.json", lambda rows: [*rows, {"text": "x"}]),
        r"task review: .*review\.train\.json: item 20 has no text in fields 'sentence' and 'label' \(there is: text\)",
    ),
    "not UTF-8": (
        lambda f: (f / "fewshot/news/42/test.txt").write_bytes(b"caf\xe9\tsport\n"),
        r"task news: .*test\.txt: byte 3 is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_task_is_one_clear_line_and_leaves_nothing_behind(run_verb, folder, case):
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(RetraceError, match=message) as caught:
        build(run_verb, folder)
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.parent.iterdir()] == ["tasks"]


def test_unknown_tasks_and_draws_are_refused_with_those_there_are(run_verb, folder, tmp_path):
    with pytest.raises(RetraceError, match=r"has no task 'rte'; there are: news, review"):
        build(run_verb, folder, tasks=["rte"])
    with pytest.raises(RetraceError, match=r"task news: .* has no draw 7; set data\.draw to one of 142, 42"):
        build(run_verb, folder, draw=7)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RetraceError, match="holds no task"):
        build(run_verb, tmp_path / "nothing")


def test_the_published_sets_are_read(run_verb, shared_data, tmp_path):
    spec = {"source": "local", "tasks": ["ag_news", "SST-2", "CB"], "max_test": 100}
    final = run_verb("tasks", spec, tmp_path / "tasks", folder=shared_data / "tasks")
    assert final["ag_news_bag_of_words_acc"] > final["ag_news_majority_acc"]
    assert 0.4 < final["SST-2_bag_of_words_acc"] < 0.9
