"""A labelled text as token ids: the prompt, its options, and what is cut when it is too long.

The prompt is ``<text>\\n<question>\\nAnswer:``; an option is ``" " + label`` and the tokenizer's end token. The end
token makes the options prefix-free, so the summed log-likelihoods of options of different lengths compare as
probabilities of whole answers and are not divided by the length. The three pieces are tokenised apart, so that a long
text can lose its beginning while question and answer survive. Unlike in the prompts released with MIGU and O-LoRA, the
task's name is not told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipelines.continual.tasks import Task

Family = Literal["causal", "seq2seq", "classification"]
Ids = tuple[int, ...]


@dataclass(frozen=True)
class EncodedTask:
    """A task in token ids.

    Attributes:
        options: tokens of each label, in the task's order; empty for classification.
        label_indices: place of each label in the classes of a shared head (classification).
        train, test: pairs of prompt tokens and index of the right option.
    """

    name: str
    options: tuple[Ids, ...]
    label_indices: tuple[int, ...]
    train: tuple[tuple[Ids, int], ...]
    test: tuple[tuple[Ids, int], ...]


def union_of_labels(tasks: list[Task]) -> list[str]:
    """Classes of a head shared by a whole sequence: every label once, in order of first appearance."""
    return list(dict.fromkeys(label for task in tasks for label in task.labels))


def encode_tasks(
    tasks: list[Task], tokenizer: PreTrainedTokenizerBase, family: Family, max_length: int
) -> list[EncodedTask]:
    """Tokenise every example of every task.

    At most ``max_length`` tokens are: a causal example with its longest option; an encoder's input with special tokens.

    Raises:
        RetraceError: no end token, or no room for a single token of text beside question and options.
    """
    classes = {label: index for index, label in enumerate(union_of_labels(tasks))}
    return [_encode(task, tokenizer, family, max_length, classes) for task in tasks]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer."""
    if tokenizer.eos_token_id is None:
        raise RetraceError("the model's tokenizer has no end token: set eos_token in its tokenizer_config.json")
    return int(tokenizer.eos_token_id)


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end token where there is none: attention masks hide padding either way."""
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else end_token(tokenizer)


def _encode(
    task: Task, tokenizer: PreTrainedTokenizerBase, family: Family, max_length: int, classes: dict[str, int]
) -> EncodedTask:
    def tokens(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    options: tuple[Ids, ...] = ()
    start: Ids = ()
    end: Ids = ()
    room = max_length
    if family == "classification":
        # A classifier reads the bare text between the tokenizer's own special tokens.
        suffix: Ids = ()
        special = tokenizer("", verbose=False)["input_ids"]
        start, end = tuple(special[: len(special) // 2]), tuple(special[len(special) // 2 :])
    else:
        suffix = tuple(tokens([f"\n{task.question}\nAnswer:" if task.question else "\nAnswer:"])[0])
        options = tuple((*ids, end_token(tokenizer)) for ids in tokens([f" {label}" for label in task.labels]))
        if family == "causal":
            room -= max(map(len, options))
        else:
            end = (end_token(tokenizer),)
    room -= len(start) + len(suffix) + len(end)
    if room < 1:
        raise RetraceError(
            f"max_length {max_length} leaves no room for the text of task {task.name} beside its question and labels: "
            f"raise it to at least {max_length - room + 1}"
        )

    def prompts(split: tuple[tuple[str, int], ...]) -> tuple[tuple[Ids, int], ...]:
        ids = tokens([text for text, _ in split])
        return tuple(
            (start + tuple(text_ids[-room:]) + suffix + end, label)
            for text_ids, (_, label) in zip(ids, split, strict=True)
        )

    label_indices = tuple(classes[label] for label in task.labels) if family == "classification" else ()
    return EncodedTask(task.name, options, label_indices, prompts(task.train), prompts(task.test))
