"""Checkpoints as Hugging Face models: the same logits, the same weights on the way back, and no network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipelines.megatron.checkpoint import read_config, read_tensors, write_checkpoint
from pipelines.megatron.export import export, import_, save_shards
from pipelines.megatron.huggingface import from_huggingface, join_qkv, model_spec_of, split_qkv, to_huggingface
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import input_key
from pipelines.runs.job import Job
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Execution, Spec

TEXT = "the quick brown fox jumps over the lazy dog and runs through the tall green grass of the field " * 4
SHAPES = {
    "mha": {"num_query_groups": 4},
    "gqa": {"num_query_groups": 2},
    "mqa_untied": {"num_query_groups": 1, "untie_embeddings_and_output_weights": True},
}
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=20)


def model_spec(shape):
    return ModelSpec(
        num_layers=3,
        hidden_size=32,
        ffn_hidden_size=40,
        num_attention_heads=4,
        seq_length=24,
        init_method_std=0.15,
        rotary_base=5000,
        **SHAPES[shape],
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from tokenizers.pre_tokenizers import ByteLevel

    from pipelines.tokenizer.folder import write_tokenizer
    from pipelines.tokenizer.protocol import LearnedVocabulary

    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "th", "the"]
    learned = LearnedVocabulary(tokens=tokens, merges=[("t", "h"), ("th", "e")])
    write_tokenizer(folder, learned, ("<|endoftext|>",))
    return folder


@pytest.fixture
def make_checkpoint(tmp_path, tokenizer):
    """``make_checkpoint(model, experts, method)``: (folder, model) of random weights."""
    from pipelines.megatron import backend
    from pipelines.megatron.model import build_model

    backend.initialize(Execution())

    def make(model, experts=None, method=None):
        from pipelines.tokenizer.loading import load_tokenizer

        loaded = load_method("moe", method) if method else None
        vocab_size = load_tokenizer(tokenizer).vocab_size
        built = build_model(
            model,
            vocab_size,
            experts,
            seed=1,
            router_builder=loaded.router() if loaded else None,
            prepare=loaded.attach if loaded else None,
        )
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
        config = {
            "model": model.model_dump(),
            "experts": experts and experts.model_dump(),
            "moe_method": method,
            "vocab_size": vocab_size,
            "tokenizer_key": input_key(tokenizer),
            "tokens_seen": 5,
            "flops_spent": 6,
        }
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        write_checkpoint(folder, config, dict(built.named_parameters()))
        return folder, built.eval()

    return make


def exported(checkpoint, tokenizer, out):
    job = Job(out, "key", Execution())
    out.mkdir()
    final = export(Spec(), {"checkpoint": checkpoint, "tokenizer": tokenizer}, job)
    return out, final


def assert_equal_logits(folder, built, vocab_size):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    ids = torch.randint(vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours_logits, their_logits = built(ids), theirs(ids).logits
    assert ours_logits.std() > 0.1
    torch.testing.assert_close(their_logits, ours_logits, rtol=0, atol=1e-4)
    return theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_logits_equal_those_of_llama_for_causal_lm(make_checkpoint, tokenizer, tmp_path, shape):
    checkpoint, built = make_checkpoint(model_spec(shape))
    folder, final = exported(checkpoint, tokenizer, tmp_path / "hf")
    theirs = assert_equal_logits(folder, built, final["vocab_size"])
    assert type(theirs).__name__ == final["architecture"] == "LlamaForCausalLM"
    assert final["num_parameters"] == theirs.num_parameters() == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_topk_logits_equal_those_of_mixtral_for_causal_lm(make_checkpoint, tokenizer, tmp_path, shape):
    checkpoint, built = make_checkpoint(model_spec(shape), EXPERTS, {"name": "topk"})
    folder, final = exported(checkpoint, tokenizer, tmp_path / "hf")
    theirs = assert_equal_logits(folder, built, final["vocab_size"])
    assert type(theirs).__name__ == final["architecture"] == "MixtralForCausalLM"
    assert final["num_parameters"] == theirs.num_parameters() == sum(p.numel() for p in built.parameters())


def test_a_wrong_order_of_query_heads_would_be_seen(make_checkpoint, tokenizer, tmp_path):
    checkpoint, built = make_checkpoint(model_spec("gqa"))
    folder, final = exported(checkpoint, tokenizer, tmp_path / "hf")
    with torch.no_grad():
        weight = built.decoder.layers[0].self_attention.linear_qkv.weight
        # Rows as one would have them without groups: all queries, then keys, then values.
        weight.copy_(torch.cat([torch.from_numpy(x) for x in split_qkv(weight.numpy().copy(), model_spec("gqa"))]))
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_logits(folder, built, final["vocab_size"])


def test_qkv_of_each_group_are_taken_apart_and_put_together():
    spec = model_spec("gqa")
    rows = np.arange(64, dtype=np.float32)[:, None] + np.zeros(32, np.float32)
    q, k, v = split_qkv(rows, spec)
    # Two groups of two query heads, a key and a value, eight rows each.
    assert q[:, 0].tolist() == [*range(16), *range(32, 48)]
    assert k[:, 0].tolist() == [*range(16, 24), *range(48, 56)]
    assert v[:, 0].tolist() == [*range(24, 32), *range(56, 64)]
    assert np.array_equal(join_qkv(q, k, v, spec), rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "moe"])
def test_round_trip_gives_back_every_tensor_bit_for_bit(make_checkpoint, tokenizer, tmp_path, shape, experts):
    checkpoint, _ = make_checkpoint(model_spec(shape), experts, {"name": "topk"} if experts else None)
    folder, _ = exported(checkpoint, tokenizer, tmp_path / "hf")
    job = Job(tmp_path / "back", "key", Execution())
    job.out.mkdir()
    import_(Spec(), {"model": folder, "tokenizer": tokenizer}, job)
    before, after = read_tensors(checkpoint), read_tensors(job.out)
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = read_config(checkpoint), read_config(job.out)
    # Hugging Face has one width: that of the experts.
    width = {"ffn_hidden_size": experts.moe_ffn_hidden_size} if experts else {}
    assert new["model"] == {**old["model"], **width}
    assert (new["tokens_seen"], new["flops_spent"]) == (0, 0)
    assert new["tokenizer_key"] == old["tokenizer_key"]


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_model_that_transformers_saved_can_be_imported(tmp_path, kind):
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    from pipelines.megatron.inference import load_for_inference

    shape = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 24,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    if kind == "llama":
        theirs = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    else:
        theirs = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=2)).eval()
    theirs.save_pretrained(tmp_path / "hf")
    job = Job(tmp_path / "imported", "key", Execution())
    job.out.mkdir()
    import_(Spec(), {"model": tmp_path / "hf"}, job)
    ids = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids).logits
    torch.testing.assert_close(load_for_inference(job.out, Execution())(ids), expected, rtol=0, atol=1e-4)


def test_the_tokenizer_travels_with_the_model_and_its_ids_are_set(make_checkpoint, tokenizer, tmp_path):
    checkpoint, _ = make_checkpoint(model_spec("gqa"))
    folder, _ = exported(checkpoint, tokenizer, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == config["pad_token_id"] == 0
    assert config["vocab_size"] == 259
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (folder / name).read_bytes() == (tokenizer / name).read_bytes()


SCORE = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer("the fox", return_tensors="pt")
made = model.generate(**inputs, max_new_tokens=4, do_sample=False)
print(made.shape[1] - inputs["input_ids"].shape[1], model(**inputs, labels=inputs["input_ids"]).loss.item())
"""


@pytest.mark.slow
@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "moe"])
def test_transformers_generates_and_scores_from_the_folder_without_a_network(
    make_checkpoint, tokenizer, tmp_path, experts
):
    checkpoint, _ = make_checkpoint(model_spec("gqa"), experts, {"name": "topk"} if experts else None)
    folder, _ = exported(checkpoint, tokenizer, tmp_path / "hf")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCORE, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    length, loss = done.stdout.split()
    assert 1 <= int(length) <= 4
    assert float(loss) > 0


def test_a_large_model_is_cut_into_shards_that_transformers_reads(make_checkpoint, tokenizer, tmp_path):
    checkpoint, built = make_checkpoint(model_spec("gqa"))
    folder, final = exported(checkpoint, tokenizer, tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    save_shards(folder, to_huggingface(read_tensors(checkpoint, "numpy"), model_spec("gqa")), max_shard_bytes=30_000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    assert_equal_logits(folder, built, final["vocab_size"])


def test_two_exports_are_the_same_bytes(make_checkpoint, tokenizer, tmp_path):
    checkpoint, _ = make_checkpoint(model_spec("gqa"), EXPERTS, {"name": "topk"})
    first, _ = exported(checkpoint, tokenizer, tmp_path / "first")
    second, _ = exported(checkpoint, tokenizer, tmp_path / "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("experts", "method", "message"),
    [
        (EXPERTS, {"name": "rmoe", "recurrent_size": 4}, "no class with rmoe routers"),
        (EXPERTS.model_copy(update={"moe_router_topk": 1}), {"name": "topk"}, "moe_router_topk is 1"),
    ],
)
def test_what_transformers_cannot_compute_is_refused_and_nothing_is_written(
    make_checkpoint, tokenizer, tmp_path, experts, method, message
):
    checkpoint, _ = make_checkpoint(model_spec("gqa"), experts, method)
    with pytest.raises(RetraceError, match=message):
        exported(checkpoint, tokenizer, tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


def test_another_tokenizer_is_refused(make_checkpoint, tokenizer, tmp_path):
    checkpoint, _ = make_checkpoint(model_spec("gqa"))
    config = json.loads((checkpoint / "config.json").read_text())
    for change, message in (
        ({"tokenizer_key": "another"}, "is not the one the checkpoint was trained with"),
        ({"vocab_size": 100}, "has 259 tokens and the checkpoint 100"),
    ):
        (checkpoint / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RetraceError, match=message):
            exported(checkpoint, tokenizer, tmp_path / next(iter(change)))


def test_a_parameter_without_a_name_over_there_is_refused(make_checkpoint, tokenizer, tmp_path):
    checkpoint, built = make_checkpoint(model_spec("gqa"))
    extra = {**dict(built.named_parameters()), "decoder.layers.0.mlp.bias": torch.zeros(3)}
    write_checkpoint(checkpoint, read_config(checkpoint), extra)
    with pytest.raises(RetraceError, match=r"decoder.layers.0.mlp.bias has no place"):
        exported(checkpoint, tokenizer, tmp_path / "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' cannot be imported"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn' is not supported"),
        ({"head_dim": 5}, "head_dim must be"),
    ],
)
def test_foreign_features_are_refused_on_import(change, message):
    config = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, **change}
    with pytest.raises(RetraceError, match=message):
        model_spec_of(config)


def test_an_incomplete_foreign_model_names_what_it_lacks(tmp_path, make_checkpoint, tokenizer):
    from pipelines.megatron.export import HuggingFaceTensors

    checkpoint, _ = make_checkpoint(model_spec("gqa"))
    folder, _ = exported(checkpoint, tokenizer, tmp_path / "hf")
    tensors = HuggingFaceTensors(folder)
    with pytest.raises(RetraceError, match=r"lacks model.layers.3.input_layernorm.weight"):
        dict(from_huggingface(tensors, model_spec("gqa").model_copy(update={"num_layers": 4}), None))


@pytest.mark.slow
def test_export_is_a_command_that_never_loads_torch(make_checkpoint, tokenizer, tmp_path, run_cli):
    checkpoint, _ = make_checkpoint(model_spec("gqa"))
    out = tmp_path / "hf"
    # A torch that cannot be imported stands in the way.
    (tmp_path / "trap" / "torch").mkdir(parents=True)
    (tmp_path / "trap" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    run_cli(
        *("megatron", "export", "--checkpoint", checkpoint, "--tokenizer", tokenizer, "--out", out),
        env={"PYTHONPATH": str(tmp_path / "trap")},
    )
    here, _ = exported(checkpoint, tokenizer, tmp_path / "here")
    assert (out / "model.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
    assert json.loads((out / "run.json").read_text())["verb"] == "export"
    assert (out / "config.json").is_file()
