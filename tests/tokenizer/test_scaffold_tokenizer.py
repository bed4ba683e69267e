"""The Hugging Face classes: found by AutoTokenizer, the same from a copied folder, and exact after every round trip."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.folder import CLASS_MODULES, PICKY, SCAFFOLD, TOKENIZER
from pipelines.tokenizer.loading import load_hf_tokenizer, load_tokenizer
from pipelines.tokenizer.protocol import byte_symbols

# What a program prints of a tokenizer: every kind of call, on texts with and without scaffolds, as JSON.
SAY_ALL = """
import json, sys
from transformers import AutoTokenizer
{before}
tokenizer = AutoTokenizer.from_pretrained({folder!r}{arguments})
texts = json.loads(sys.stdin.read())
pairs = [(text[:20], text) for text in texts]
said = [type(tokenizer).__name__, len(tokenizer), tokenizer.vocab_size, "pipelines" in sys.modules]
every = dict(return_offsets_mapping=True, return_special_tokens_mask=True, return_token_type_ids=True)
for options in (
    {{}},
    dict(truncation=True, max_length=9),
    dict(truncation="only_second", max_length=40, stride=2, return_overflowing_tokens=True),
    dict(padding=True, pad_to_multiple_of=8),
    dict(padding="max_length", truncation=True, max_length=12, padding_side="left"),
):
    batch = tokenizer(*zip(*pairs), **options, **every) if "stride" in options else tokenizer(texts, **options, **every)
    said += [batch.data, [batch.word_ids(i) for i in range(len(batch["input_ids"]))], batch.char_to_token(0, 2)]
said.append([tokenizer.decode(tokenizer.encode(text)) for text in texts])
said.append([tokenizer.tokenize(text) for text in texts])
print(json.dumps(said))
"""


CLASSES = {"scaffold_bpe": "ScaffoldTokenizer", "picky_bpe": "PickyTokenizer"}
SIDE_FILES = {"scaffold_bpe": SCAFFOLD, "picky_bpe": PICKY}


@pytest.fixture(scope="module", params=CLASSES)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def folder(trained, method):
    return trained(method)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_hf_tokenizer(folder)


@pytest.fixture(scope="module")
def sample(trained, method, texts):
    """Texts that plain BPE over all tokens would encode otherwise."""
    texts = [text[:400] for text in texts if "<|endoftext|>" not in text]
    light = load_tokenizer(trained(method))
    plain = light.encoder.encode_batch(texts)
    found = [text for text, each in zip(texts, plain, strict=True) if each.ids != light.encode(text)]
    assert len(found) > 10
    return found[:10]


def program(code, texts, tmp_path, path=None):
    """Run a program elsewhere, without this package unless ``path`` has it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_auto_tokenizer_says_the_same_with_the_package_and_with_trusted_code_alone(
    root, method, folder, sample, tmp_path
):
    ways = {
        "before": ("import pipelines", "", root),
        "trusted": ("", ", trust_remote_code=True", None),
    }
    said = {}
    for name, (before, arguments, path) in ways.items():
        done = program(SAY_ALL.format(before=before, folder=str(folder), arguments=arguments), sample, tmp_path, path)
        assert done.returncode == 0, done.stderr
        said[name] = json.loads(done.stdout)
    assert said["before"][:4] == [CLASSES[method], 1024, 1024, True]
    assert said["trusted"][:4] == [CLASSES[method], 1024, 1024, False]
    assert said["before"][4:] == said["trusted"][4:]
    assert said["before"][-2] == sample


def test_the_package_may_be_imported_first_and_loads_no_transformers(root, method, folder, tmp_path):
    code = (
        "import sys, pipelines; assert 'transformers' not in sys.modules and 'numpy' not in sys.modules;"
        "from transformers import AutoTokenizer;"
        f"print(type(AutoTokenizer.from_pretrained({str(folder)!r})).__module__)"
    )
    done = program(code, [], tmp_path, root)
    assert done.stdout == f"pipelines.tokenizer.{CLASS_MODULES[CLASSES[method]][0]}\n", done.stderr


def test_without_class_or_trust_auto_tokenizer_refuses_and_names_the_remedy(folder, tmp_path):
    code = f"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({str(folder)!r})"
    done = program(code, [], tmp_path)
    assert done.returncode == 1
    assert "trust_remote_code=True" in done.stderr


def test_the_plain_class_is_the_degraded_mode_that_the_class_describes(trained, texts):
    folder = trained("scaffold_bpe")
    light = load_tokenizer(folder)
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER))
    assert len(plain) == light.num_tokens > 1024
    for text in texts:
        ids = plain(text, split_special_tokens=True)["input_ids"]
        assert plain.decode(ids) == text
        assert light.table.expand(np.array(ids)).tolist() == light.encode(text)
        assert ids == light.encode(text) or max(ids) >= 1024


def test_saving_gives_the_same_files_to_the_last_byte(method, folder, tokenizer, tmp_path):
    own = [SIDE_FILES[method], *(f"{name}.py" for name in CLASS_MODULES[CLASSES[method]])]
    tokenizer.save_pretrained(tmp_path / "once")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "once")
    assert type(again) is type(tokenizer)
    again.save_pretrained(tmp_path / "twice")
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert names == sorted([TOKENIZER, "tokenizer_config.json", *own])
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name
    for name in own:
        assert (tmp_path / "once" / name).read_bytes() == (folder / name).read_bytes(), name
    # Hugging Face adds its own post-processor to what is otherwise the same file.
    models = [
        json.loads((path / TOKENIZER).read_text(encoding="utf-8"))["model"] for path in (folder, tmp_path / "once")
    ]
    assert models[0] == models[1]
    maps = [
        json.loads((path / "tokenizer_config.json").read_text())["auto_map"] for path in (folder, tmp_path / "once")
    ]
    assert maps[0] == maps[1]


def test_added_tokens_survive_saving_and_follow_the_vocabulary(folder, sample, tmp_path):
    tokenizer = load_hf_tokenizer(folder)
    assert tokenizer.add_tokens(["<new>"]) == 1
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>"]}) == 1
    tokenizer.save_pretrained(tmp_path)
    again = load_hf_tokenizer(tmp_path)
    text = f"{sample[0]}<new>{sample[1]}<sep>"
    for each in (tokenizer, again):
        assert (len(each), each.vocab_size) == (1026, 1024)
        assert each.convert_tokens_to_ids(["<new>", "<sep>"]) == [1024, 1025]
        ids = each(text)["input_ids"]
        assert ids == each(sample[0])["input_ids"] + [1024] + each(sample[1])["input_ids"] + [1025]
        assert each.decode(ids) == text
        assert each.decode(ids, skip_special_tokens=True) == text.removesuffix("<sep>")
    light = load_tokenizer(tmp_path)
    assert light.vocab_size == 1026
    assert light.decode([1024]) == "<new>"


def test_tokens_and_ids_convert_into_each_other_and_tokens_that_left_are_none(method, folder, tokenizer, sample):
    key = "scaffold_tokens" if method == "scaffold_bpe" else "removed_tokens"
    scaffold = json.loads((folder / SIDE_FILES[method]).read_text(encoding="utf-8"))[key][0]
    for text in sample:
        tokens = tokenizer.tokenize(text)
        assert tokens == tokenizer(text).tokens()
        assert tokenizer.convert_tokens_to_ids(tokens) == tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens
        assert tokenizer.convert_tokens_to_string(tokens) == text
        assert scaffold not in tokens
    assert tokenizer.convert_tokens_to_ids(scaffold) is None
    assert scaffold not in tokenizer.get_vocab()
    assert sorted(tokenizer.get_vocab().values()) == list(range(1024))
    with pytest.raises(ValueError, match="is a scaffold token"):
        tokenizer.add_tokens([scaffold])


def test_beginning_and_end_of_sequence_are_put_around_the_expanded_ids(folder, tokenizer, sample):
    marked = load_hf_tokenizer(folder)
    marked.add_bos_token = marked.add_eos_token = True
    plain = tokenizer(sample[0])["input_ids"]
    assert marked(sample[0])["input_ids"] == [0, *plain, 0]
    cut = marked(sample[0], truncation=True, max_length=7, return_special_tokens_mask=True)
    assert cut["input_ids"] == [0, *plain[:5], 0]
    assert cut["special_tokens_mask"] == [1, 0, 0, 0, 0, 0, 1]
    assert marked.num_special_tokens_to_add() == 2


def test_a_model_resized_to_the_tokenizer_has_a_row_for_every_id(tokenizer, sample):
    config = transformers.LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(config)
    model.resize_token_embeddings(len(tokenizer))
    batch = tokenizer(sample, return_tensors="pt", padding=True)
    assert model(**batch).logits.shape == (*batch["input_ids"].shape, 1024)


def test_workers_of_other_processes_get_the_same_tokenizer(tokenizer, sample):
    assert pickle.loads(pickle.dumps(tokenizer))(sample)["input_ids"] == tokenizer(sample)["input_ids"]


def test_text_that_no_template_may_turn_into_special_tokens(tokenizer, sample):
    text = f"{sample[0]}<|endoftext|>"
    whole = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert 0 not in whole
    assert tokenizer.decode(whole) == text
    assert tokenizer(text)["input_ids"][-1] == 0
    # What chat templates call for text that must not become control tokens.
    assert tokenizer._encode_without_added_tokens(sample[0]) == tokenizer(sample[0])["input_ids"]


def test_training_under_this_name_is_refused(tokenizer):
    with pytest.raises(NotImplementedError, match="tokenizer train"):
        tokenizer.train_new_from_iterator([["a"]], 300)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_a_damaged_file_is_named_by_auto_tokenizer_too(method, folder, tmp_path, which, damage):
    name = (TOKENIZER, SIDE_FILES[method])[which]
    broken = shutil.copytree(folder, tmp_path / "broken")
    if damage == "gone":
        (broken / name).unlink()
    else:
        (broken / name).write_bytes((broken / name).read_bytes()[: 5000 if damage == "cut" else 0])
    said = "has no tokenizer.json" if (name, damage) == (TOKENIZER, "gone") else rf"{name} is (damaged|missing)"
    with pytest.raises(ValueError, match=said):
        transformers.AutoTokenizer.from_pretrained(broken)


def test_what_a_picky_file_says_must_spell_the_same(trained, tmp_path):
    folder = shutil.copytree(trained("picky_bpe"), tmp_path / "broken")
    body = json.loads((folder / PICKY).read_text(encoding="utf-8"))
    split = next(event for event in body["events"] if isinstance(event[1], list))
    for wrong, says in ((["x"], "spells something else"), (["nowhere"], "spells something else|nowhere")):
        split[1] = wrong
        (folder / PICKY).write_text(json.dumps(body), encoding="utf-8")
        with pytest.raises(RetraceError, match=says):
            load_tokenizer(folder)
    body["events"] = [["nowhere", "at all"]]
    (folder / PICKY).write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(RetraceError, match=r"picky\.json is damaged or belongs to another"):
        load_hf_tokenizer(folder)


def test_picky_tokens_lie_where_their_bytes_lie(trained):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer, light = load_hf_tokenizer(trained("picky_bpe")), load_tokenizer(trained("picky_bpe"))
    every_byte = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(byte_symbols())}, []))
    every_byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.sampled_from(["parameter", " the", "é漢字", "😀", "'s ", "\n\n", "array_like", "12"])).map("".join)
    )
    def agree(text):
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert encoded["input_ids"] == light.encode(text)
        spans, at = every_byte.encode(text).offsets, 0
        for token, span in zip(encoded.tokens(), encoded[0].offsets, strict=True):
            assert span == (spans[at][0], spans[at + len(token) - 1][1])
            at += len(token)

    agree()
    words = tokenizer(["don't", "parameters"], is_split_into_words=True)
    assert words.word_ids() == sorted(words.word_ids())
    assert words["input_ids"] == light.encode("don't") + light.encode("parameters")
