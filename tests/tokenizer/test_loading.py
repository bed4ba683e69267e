"""Opening tokenizer folders: what does not fit is refused, and the Hugging Face class agrees with the light one."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.folder import PICKY, SCAFFOLD, TOKENIZER
from pipelines.tokenizer.loading import load_hf_tokenizer, load_tokenizer

METHODS = ["bpe", "scaffold_bpe", "picky_bpe"]


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained("scaffold_bpe"), tmp_path / "tokenizer")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_opening_a_tokenizer_imports_no_transformers(trained):
    code = (
        "import sys; from pipelines.tokenizer.loading import load_tokenizer; load_tokenizer(sys.argv[1]);"
        "sys.exit('transformers' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(trained("scaffold_bpe"))]).returncode == 0


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(RetraceError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 5000])
@pytest.mark.parametrize("name", [TOKENIZER, SCAFFOLD])
def test_a_file_cut_short_is_named(folder, name, keep):
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    with pytest.raises(RetraceError, match=rf"{name} is damaged"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_of_document_token_is_refused(folder):
    text = (folder / TOKENIZER).read_text(encoding="utf-8").replace("<|endoftext|>", "<|other|>")
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    with pytest.raises(RetraceError, match=r"has no <\|endoftext\|> token"):
        load_tokenizer(folder)


def test_a_scaffold_file_of_another_tokenizer_is_refused(folder):
    body = json.loads((folder / SCAFFOLD).read_text(encoding="utf-8"))
    edit(folder / SCAFFOLD, vocab_size=body["vocab_size"] - 1)
    with pytest.raises(RetraceError, match="do not make"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("method", "name"), [("scaffold_bpe", SCAFFOLD), ("picky_bpe", PICKY)])
def test_a_folder_without_its_second_file_does_not_pass_for_plain_bpe(trained, tmp_path, method, name):
    folder = shutil.copytree(trained(method), tmp_path / "tokenizer")
    (folder / name).unlink()
    for load in (load_tokenizer, load_hf_tokenizer):
        with pytest.raises(RetraceError, match=rf"{name} is missing, but .*tokenizer_config\.json names"):
            load(folder)
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"tokenizer_config\.json is damaged"):
        load_tokenizer(folder)


def test_an_expansion_that_would_change_the_text_is_refused(folder):
    body = json.loads((folder / SCAFFOLD).read_text(encoding="utf-8"))
    edit(folder / SCAFFOLD, expansions=[[300], *body["expansions"][1:]])
    with pytest.raises(RetraceError, match="spells something else"):
        load_tokenizer(folder)
    edit(folder / SCAFFOLD, expansions=[[body["vocab_size"]], *body["expansions"][1:]])
    with pytest.raises(RetraceError, match="leaves the vocabulary"):
        load_hf_tokenizer(folder)


@pytest.mark.parametrize("method", METHODS)
class TestHuggingFace:
    """``load_hf_tokenizer`` next to ``load_tokenizer``."""

    @pytest.fixture
    def texts(self, texts):
        return texts[:60]

    @pytest.fixture
    def both(self, trained, method):
        return load_hf_tokenizer(trained(method)), load_tokenizer(trained(method))

    def test_ids_text_and_sizes_agree(self, both, texts):
        hf, light = both
        assert hf.vocab_size == len(hf) == len(hf.get_vocab()) == light.vocab_size == 1024
        assert hf.eos_token_id == hf.pad_token_id == light.eod_id
        assert hf(texts)["input_ids"] == [ids.tolist() for ids in light.encode_batch(texts)]
        assert hf.encode(texts[0]) == light.encode(texts[0])
        assert hf.decode(light.encode(texts[0])) == texts[0]
        assert hf.convert_tokens_to_ids(hf.tokenize(texts[0])) == light.encode(texts[0])

    def test_the_end_of_document_token_is_a_token_to_hugging_face_and_text_to_the_corpus(self, both):
        hf, light = both
        assert light.eod_id in hf("a<|endoftext|>b")["input_ids"]
        assert light.eod_id not in light.encode("a<|endoftext|>b")

    def test_truncation_counts_the_ids_a_model_sees(self, both, texts):
        hf, light = both
        whole = [ids.tolist() for ids in light.encode_batch(texts[:40])]
        assert hf(texts[:40], truncation=True, max_length=33)["input_ids"] == [ids[:33] for ids in whole]
        hf.truncation_side = "left"
        assert hf(texts[:40], truncation=True, max_length=33)["input_ids"] == [ids[-33:] for ids in whole]

    def test_padding_is_to_the_longest_after_expansion(self, both, texts):
        hf, light = both
        whole = [ids.tolist() for ids in light.encode_batch([text[:200] for text in texts[:10]])]
        longest = max(map(len, whole))
        padded = hf([text[:200] for text in texts[:10]], padding=True, return_tensors="pt")
        assert padded["input_ids"].shape == (10, longest)
        assert padded["attention_mask"].sum(1).tolist() == [len(ids) for ids in whole]
        assert padded["input_ids"][0, : len(whole[0])].tolist() == whole[0]
        left = hf([text[:200] for text in texts[:10]], padding="max_length", max_length=300, padding_side="left")
        assert [ids[-len(want) :] for ids, want in zip(left["input_ids"], whole, strict=True)] == whole
        multiple = hf(texts[0][:50], padding=True, pad_to_multiple_of=64)
        assert len(multiple["input_ids"]) == 64

    def test_offsets_point_at_the_text_of_each_id(self, both, texts):
        hf, _ = both
        encoded = hf(texts[0], return_offsets_mapping=True, return_special_tokens_mask=True, return_length=True)
        # A list even for one text, as the plain class has it.
        assert [len(encoded["offset_mapping"])] == [len(encoded["input_ids"])] == encoded["length"]
        assert not any(encoded["special_tokens_mask"])
        for i, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            assert hf.decode([i]) in texts[0][max(start - 1, 0) : end]

    def test_overflowing_windows_overlap_by_the_stride_and_cover_the_text(self, both, texts):
        hf, light = both
        whole = light.encode(texts[0])
        parts = hf(texts[0], truncation=True, max_length=20, stride=5, return_overflowing_tokens=True)
        assert set(parts["overflow_to_sample_mapping"]) == {0}
        rebuilt = parts["input_ids"][0] + [i for window in parts["input_ids"][1:] for i in window[5:]]
        assert rebuilt == whole

    def test_saving_and_loading_changes_nothing(self, both, texts, tmp_path):
        from transformers import AutoTokenizer

        hf, _ = both
        hf.save_pretrained(tmp_path / "saved")
        again = load_hf_tokenizer(tmp_path / "saved")
        assert type(again) is type(hf)
        assert again(texts)["input_ids"] == hf(texts)["input_ids"]
        assert AutoTokenizer.from_pretrained(tmp_path / "saved")(texts)["input_ids"] == hf(texts)["input_ids"]

    def test_pairs_are_joined_as_the_plain_class_joins_them(self, both):
        hf, light = both
        assert hf("a b", "c d")["input_ids"] == light.encode("a b") + light.encode("c d")
        assert hf([("a b", "c d")])["input_ids"] == [light.encode("a b") + light.encode("c d")]


def test_tensor_batches_of_empty_and_single_texts(trained):
    hf = load_hf_tokenizer(trained("scaffold_bpe"))
    assert hf("")["input_ids"] == []
    assert hf(["", "a"], padding=True)["attention_mask"] == [[0], [1]]
    assert hf("a b", return_tensors="pt")["input_ids"].shape[0] == 1


@pytest.mark.parametrize("method", ["scaffold_bpe", "picky_bpe"])
def test_the_lists_of_an_encoding_are_made_once_however_long_the_text(trained, method, texts):
    """Rust makes such a list anew at every reading: one read a word costs the square of the text."""
    backend = load_hf_tokenizer(trained(method)).backend_tokenizer
    encoding = backend.tokenizer.encode(texts[0])
    reads: Counter[str] = Counter()

    class Counted:
        def __getattr__(self, name: str) -> object:
            reads[name] += 1
            return getattr(encoding, name)

    whole = backend.whole(Counted(), False)
    assert whole.ids.tolist() == backend.encode(texts[0]).ids
    assert reads["ids"] == 1
    assert set(reads.values()) == {1}

    reads.clear()
    windows = whole.windows({"max_length": 20, "stride": 5, "strategy": "longest_first", "direction": "right"})
    assert len(windows) > 2
    columns = ["tokens", "type_ids", "special_tokens_mask", "offsets", "word_ids", "sequence_ids"]
    for places in windows:
        for name in columns:
            assert len(whole.column(name, places)) == len(places)
    assert max(reads[name] for name in columns) == 1
