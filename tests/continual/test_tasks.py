"""Tasks on disk and the prompts made of them."""

from __future__ import annotations

import json

import pytest

from pipelines.continual.prompts import encode_tasks, union_of_labels
from pipelines.continual.tasks import load_tasks
from pipelines.runs.errors import RetraceError


class Characters:
    """A tokenizer of one token a character."""

    eos_token_id = 0
    pad_token_id = None

    def __call__(self, texts, add_special_tokens=True, verbose=True):
        if isinstance(texts, str):
            return {"input_ids": [1, *map(ord, texts), 2]}
        assert not add_special_tokens
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


def text_of(ids):
    return "".join(map(chr, ids))


def test_tasks_come_in_the_order_of_the_sequence_or_of_the_listing(task_folder):
    assert [task.name for task in load_tasks(task_folder)] == ["colour", "animal"]
    assert [task.name for task in load_tasks(task_folder, ("animal", "colour"))] == ["animal", "colour"]
    colour = load_tasks(task_folder, ("colour",))[0]
    assert colour.train[1] == ("a dark blue thing, number 1", 1)
    assert (len(colour.train), len(colour.test)) == (12, 6)


def test_a_causal_prompt_ends_in_the_question_and_options_end_in_the_end_token(task_folder):
    encoded = encode_tasks(load_tasks(task_folder), Characters(), "causal", 96)[0]
    assert text_of(encoded.test[0][0]) == "a red thing, number 0\nWhich colour?\nAnswer:"
    assert [text_of(option) for option in encoded.options] == [" red\0", " dark blue\0"]


def test_long_texts_lose_their_beginning_and_the_answer_survives(task_folder):
    limit = 45
    encoded = encode_tasks(load_tasks(task_folder), Characters(), "causal", limit)[0]
    prompt = text_of(encoded.test[0][0])
    assert prompt.endswith("mber 0\nWhich colour?\nAnswer:")
    longest = max(map(len, encoded.options))
    assert max(len(prompt) for prompt, _ in encoded.train) == limit - longest


def test_an_encoder_reads_the_prompt_or_the_bare_text_with_its_special_tokens(task_folder):
    tasks = load_tasks(task_folder)
    seq2seq = encode_tasks(tasks, Characters(), "seq2seq", 96)[0]
    assert text_of(seq2seq.test[0][0]) == "a red thing, number 0\nWhich colour?\nAnswer:\0"
    classification = encode_tasks(tasks, Characters(), "classification", 12)
    assert text_of(classification[0].test[0][0]) == "\x01, number 0\x02"
    assert union_of_labels(tasks) == ["red", "dark blue", "cat", "dog", "owl"]
    assert classification[1].label_indices == (2, 3, 4)


def test_a_label_shared_by_two_tasks_is_one_class(task_folder):
    path = task_folder / "animal" / "task.json"
    card = json.loads(path.read_text())
    card["labels"] = ["cat", "dog", "owl", "red"]
    path.write_text(json.dumps(card))
    tasks = load_tasks(task_folder)
    assert encode_tasks(tasks, Characters(), "classification", 96)[1].label_indices == (2, 3, 4, 0)


def test_no_room_for_the_text_is_refused_with_the_length_it_needs(task_folder):
    tasks = load_tasks(task_folder, ("colour",))
    with pytest.raises(RetraceError, match="max_length 20 leaves no room for the text of task colour") as refused:
        encode_tasks(tasks, Characters(), "causal", 20)
    needed = int(str(refused.value).rsplit(" ", 1)[1])
    assert encode_tasks(tasks, Characters(), "causal", needed)
    with pytest.raises(RetraceError, match="no room"):
        encode_tasks(tasks, Characters(), "causal", needed - 1)


def test_a_tokenizer_without_an_end_token_is_refused(task_folder):
    tokenizer = Characters()
    tokenizer.eos_token_id = None
    with pytest.raises(RetraceError, match="no end token"):
        encode_tasks(load_tasks(task_folder), tokenizer, "causal", 96)


def test_unicode_line_separators_inside_a_text_do_not_break_its_line(task_folder):
    path = task_folder / "colour" / "test.jsonl"
    path.write_text(
        json.dumps({"text": "one\u2028two\x85", "label": "red"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert load_tasks(task_folder, ("colour",))[0].test == (("one\u2028two\x85", 0),)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "colour/train.jsonl",
            '{"text": "x", "label": "green"}\n',
            r"train\.jsonl:1: label 'green' is not in task\.json",
        ),
        ("colour/test.jsonl", '{"text": "x", "label": "red"}\n{"text": "x"}\n', r"test\.jsonl:2: needs a JSON object"),
        ("colour/test.jsonl", "[1]\n", r"test\.jsonl:1: needs a JSON object"),
        ("colour/test.jsonl", '{"text": 3, "label": "red"}\n', '"text" must be a text'),
        ("colour/test.jsonl", "", r"test\.jsonl: no examples"),
        ("colour/task.json", '{"labels": ["red"], "question": ""}', '"labels" must list at least two'),
        ("colour/task.json", '{"labels": ["red", "red"], "question": ""}', "names one twice"),
        ("colour/task.json", '{"labels": ["red", "dark blue"]}', '"question" must be a text'),
        ("colour/task.json", "{", "not JSON"),
        ("tasks.json", "{}", 'needs "tasks"'),
    ],
)
def test_broken_task_files_are_refused_by_name_and_place(task_folder, file, content, message):
    (task_folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(RetraceError, match=message):
        load_tasks(task_folder)


def test_missing_and_mangled_files_are_refused(task_folder):
    with pytest.raises(RetraceError, match=r"unknown task plant; .* has colour, animal"):
        load_tasks(task_folder, ("colour", "plant"))
    (task_folder / "animal" / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RetraceError, match=r"train\.jsonl: not UTF-8"):
        load_tasks(task_folder)
    (task_folder / "animal" / "train.jsonl").unlink()
    with pytest.raises(RetraceError, match=r"train\.jsonl: no such file"):
        load_tasks(task_folder)
