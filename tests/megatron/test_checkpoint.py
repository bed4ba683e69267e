import json

import pytest
import torch
from click.testing import CliRunner

from pipelines.megatron.checkpoint import in_order, read_config, read_tensors, write_checkpoint
from pipelines.megatron.inspection import inspect
from pipelines.runs.errors import RetraceError

CONFIG = {
    "model": {
        "num_layers": 1,
        "hidden_size": 4,
        "ffn_hidden_size": 8,
        "num_attention_heads": 2,
        "num_query_groups": 2,
        "seq_length": 8,
    },
    "experts": None,
    "moe_method": None,
    "vocab_size": 6,
    "tokenizer_key": "k",
    "tokens_seen": 10,
    "flops_spent": 20,
}


def tensors():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(6, 4, generator=generator)
    return {"embedding.word_embeddings.weight": shared, "output_layer.weight": shared, "b": torch.randn(3)}


def test_what_is_written_is_read_in_shards_and_by_name(tmp_path):
    written = tensors()
    write_checkpoint(tmp_path, CONFIG, written, max_shard_bytes=110)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert shards == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    read = read_tensors(tmp_path)
    assert set(read) == set(written)
    assert all(torch.equal(read[name], written[name]) for name in written)
    assert read_config(tmp_path) == {"format": "retrace-megatron-1", **CONFIG}
    assert read.shape("b") == [3]


def test_two_writes_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name, CONFIG, ((n, torch.ones(2)) for n in ("b", "a")))
    for file in sorted(each.name for each in (tmp_path / "one").iterdir()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def spoil(folder, what):
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "other format":
        (folder / "config.json").write_text(json.dumps({**CONFIG, "format": "other"}))
    elif what == "lacking":
        (folder / "config.json").write_text(json.dumps({"format": "retrace-megatron-1"}))
    elif what == "no index":
        (folder / "model.safetensors.index.json").unlink()
    elif what == "no shard":
        (folder / "model-00001-of-00001.safetensors").unlink()
    else:
        shard = folder / "model-00001-of-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", r"not a Retrace checkpoint \(no config\.json\)"),
        ("other format", "format is 'other'"),
        ("lacking", "lacks model, experts, vocab_size"),
        ("no index", "not whole"),
        ("no shard", "not whole"),
        ("cut shard", "is damaged"),
    ],
)
def test_a_wrong_or_half_written_folder_is_refused(tmp_path, what, message):
    write_checkpoint(tmp_path, CONFIG, tensors())
    spoil(tmp_path, what)
    with pytest.raises(RetraceError, match=message):
        read_tensors(tmp_path)["b"]


def test_names_come_in_the_models_order():
    layers = [f"decoder.layers.{n}.mlp.linear_fc1.weight" for n in (0, 2, 10)]
    ordered = ["embedding.word_embeddings.weight", *layers, "output_layer.weight", "shared.cell"]
    assert in_order(reversed(ordered)) == ordered


def test_inspect_prints_shapes_and_totals(tmp_path):
    write_checkpoint(tmp_path, CONFIG, tensors())
    printed = CliRunner().invoke(inspect, [str(tmp_path)], catch_exceptions=False).output
    assert "embedding.word_embeddings.weight  6x4" in printed
    assert "parameters           51" in printed
    # 3 * 2 * (qkv 4*12 + projection 16 + attention 2*8*4 + swiglu 3*4*8 + head 24)
    assert "FLOPs a token        1,488" in printed
