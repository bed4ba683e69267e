"""Growing folders of either kind: ours and Hugging Face's give the same model, and what is not whole is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.growth.grow import grow
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_config, read_tensors, write_checkpoint
from pipelines.megatron.definition import logits_of
from pipelines.megatron.export import export, import_
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import input_key
from pipelines.runs.verb import Spec

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True, "num_query_groups": 1})
METHODS = {
    "stack": {"name": "stack", "growth_factor": 2},
    "noisy": {"name": "stack", "stacking_list": [0, 1, 1], "noise_coeff": 0.2},
    "zero_depth": {"name": "zero_depth", "growth_factor": 2},
    "random_depth": {"name": "random_depth", "growth_factor": 3},
    "direct_width": {"name": "direct_width", "growth_factor": 2},
    "queries": {"name": "direct_width", "growth_factor": 2, "heads": "queries"},
    "zero_width": {"name": "zero_width", "growth_factor": 2},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers.pre_tokenizers import ByteLevel

    from pipelines.tokenizer.folder import write_tokenizer
    from pipelines.tokenizer.protocol import LearnedVocabulary

    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    write_tokenizer(folder, LearnedVocabulary(tokens=tokens, merges=[]), ("<|endoftext|>",))
    return folder


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """``checkpoint(model, experts)``: a folder of ours."""

    def make(model=MODEL, experts=None):
        folder = tmp_path / "ours"
        folder.mkdir()
        config = {
            "model": model.model_dump(),
            "experts": experts and experts.model_dump(),
            "moe_method": {"name": "topk"} if experts else None,
            "vocab_size": 257,
            "tokenizer_key": input_key(tokenizer),
            "tokens_seen": 5,
            "flops_spent": 6,
        }
        write_checkpoint(folder, config, models.weights(model, experts, vocab_size=257))
        return folder

    return make


@pytest.fixture
def run(tmp_path, job):
    """``run(verb, name, spec, **inputs)``: the folder that a job made."""

    def run(verb, name, spec, **inputs):
        with job(name) as made:
            verb(spec, inputs, made)
        return made.out

    return run


def tensors_of(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def assert_same_folders(one, other):
    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (one, other)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("model", "experts"), [(MODEL, None), (UNTIED, None), (MODEL, EXPERTS), (UNTIED, EXPERTS)])
def test_growing_and_converting_commute(checkpoint, run, tokenizer, model, experts, name):
    ours, spec = checkpoint(model, experts), GrowSpec(method=METHODS[name], certify=False)
    grown_first = run(export, "a", Spec(), checkpoint=run(grow, "a0", spec, input=ours), tokenizer=tokenizer)
    theirs = run(export, "b0", Spec(), checkpoint=ours, tokenizer=tokenizer)
    converted_first = run(grow, "b", spec, input=theirs)
    assert_same_folders(grown_first, converted_first)
    assert {path.name for path in grown_first.iterdir()} == {path.name for path in converted_first.iterdir()}
    # And back again.
    back = run(import_, "c", Spec(), model=converted_first, tokenizer=tokenizer)
    grown = read_tensors(run(grow, "c0", spec, input=ours))
    read = read_tensors(back)
    assert read.keys() == grown.keys()
    assert all(torch.equal(read[each], grown[each]) for each in grown)
    size = "num_layers" if name in ("stack", "noisy", "zero_depth", "random_depth") else "hidden_size"
    assert read_config(back)["model"][size] == read_config(ours)["model"][size] * (
        1.5 if name == "noisy" else METHODS[name]["growth_factor"]
    )


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_transformers_reads_a_grown_folder_and_computes_what_we_do(checkpoint, run, tokenizer, experts):
    from transformers import AutoModelForCausalLM

    theirs = run(export, "hf", Spec(), checkpoint=checkpoint(UNTIED, experts), tokenizer=tokenizer)
    grown = run(grow, "grown", GrowSpec(method=METHODS["stack"]), input=theirs)
    model = AutoModelForCausalLM.from_pretrained(grown, dtype=torch.float32, local_files_only=True).eval()
    assert model.config.num_hidden_layers == 4
    ids = torch.arange(16)[None]
    back = run(import_, "back", Spec(), model=grown)
    shape = ModelSpec.model_validate(read_config(back)["model"])
    expected = logits_of(read_tensors(back), shape, experts, ids)
    torch.testing.assert_close(model(ids).logits.detach().double(), expected, rtol=0, atol=1e-4)


def saved_llama(folder, dtype=torch.bfloat16, **options):
    """A folder as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
    }
    LlamaForCausalLM(LlamaConfig(**sizes, **options)).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_a_bfloat16_llama_stays_bfloat16_and_keeps_what_lies_beside_the_weights(tmp_path, job, tied):
    from transformers import AutoModelForCausalLM

    folder = saved_llama(tmp_path / "llama", tie_word_embeddings=tied)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("old weights")
    with job("grown") as made:
        grow(GrowSpec(method=METHODS["zero_depth"]), {"input": folder}, made)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors_of(made.out).values())
    assert made.facts["certificate"]["checkpoint"]["max_logit_deviation"] == 0
    assert made.facts["certificate"]["dtype"] == "bfloat16"
    assert (made.out / "tokenizer.json").is_file()
    assert not (made.out / "pytorch_model.bin").exists()
    before, after = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32, local_files_only=True)
        for each in (folder, made.out)
    )
    assert after.config.num_hidden_layers == len(after.model.layers) == 4
    assert (after.lm_head.weight is after.model.embed_tokens.weight) is tied
    ids = torch.arange(16)[None]
    assert torch.equal(before(ids).logits, after(ids).logits)


def test_shards_are_followed_by_their_index(tmp_path, job):
    folder = saved_llama(tmp_path / "llama", dtype=torch.float32)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in (1, 2):
        part = dict(list(whole.items())[number - 1 :: 2])
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors")
        weight_map |= dict.fromkeys(part, f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with job("grown") as made:
        grow(GrowSpec(method={"name": "stack", "growth_factor": 1}), {"input": folder}, made)
    grown = tensors_of(made.out)
    assert grown.keys() == whole.keys()
    assert all(torch.equal(grown[name], whole[name]) for name in whole)


def spoil(folder, what):
    config = json.loads((folder / "config.json").read_text())
    weights = next(folder.glob("*.safetensors"))
    if what == "another architecture":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "broken config":
        (folder / "config.json").write_text("{")
    elif what == "config of something else":
        (folder / "config.json").write_text("{}")
    elif what == "config without sizes":
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif what == "cut header":
        weights.write_bytes(weights.read_bytes()[:40])
    elif what in ("layer too many", "layer too few"):
        count = {"layer too many": 3, "layer too few": 1}[what]
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}))
    elif what == "another width":
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 25}))
    elif what == "no shard":
        index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif what == "kinds of layers":
        kinds = ["full_attention", "sliding_attention"]
        (folder / "config.json").write_text(json.dumps({**config, "layer_types": kinds}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("another architecture", "model_type 'gpt2' cannot be imported"),
        ("no config", r"has no config\.json: give the folder of a checkpoint, or of a Hugging Face model"),
        ("broken config", "is not JSON"),
        ("config of something else", "not a Retrace checkpoint"),
        ("config without sizes", "lacks num_attention_heads"),
        ("no weights", r"has no model\*\.safetensors"),
        ("cut weights", r"is damaged \(it should have"),
        ("cut header", "is damaged"),
        ("layer too many", "lacks model.layers.2.input_layernorm.weight"),
        ("layer too few", r"has model\.layers\.1\..*, which config.json says nothing of"),
        ("another width", "where config.json asks for"),
        ("no shard", "is missing, though model.safetensors.index.json lists it"),
        ("kinds of layers", "layers of several kinds"),
    ],
)
def test_a_hugging_face_folder_that_is_not_whole_is_refused_and_nothing_is_written(tmp_path, job, what, message):
    folder = saved_llama(tmp_path / "llama")
    spoil(folder, what)
    with job("refused") as refused, pytest.raises(RetraceError, match=message):
        grow(GrowSpec(method=METHODS["stack"]), {"input": folder}, refused)
    assert list(refused.out.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "lacks decoder.layers.2.input_layernorm.weight"),
        ({"num_layers": 1}, "has decoder.layers.1.input_layernorm.weight, which config.json says nothing of"),
        ({"ffn_hidden_size": 25}, r"linear_fc1.weight is \[48, 16\] where config.json asks for \[50, 16\]"),
    ],
)
def test_a_checkpoint_whose_config_is_anothers_is_refused(checkpoint, job, change, message):
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model": {**config["model"], **change}}))
    with job("refused") as refused, pytest.raises(RetraceError, match=message):
        grow(GrowSpec(method=METHODS["stack"]), {"input": folder}, refused)
    assert list(refused.out.iterdir()) == []


@pytest.mark.slow
def test_the_command_grows_a_hugging_face_folder_and_leaves_nothing_after_a_refusal(tmp_path, run_cli):
    folder, out = saved_llama(tmp_path / "llama"), tmp_path / "out"
    refused = run_cli(
        *("growth", "grow", "--input", folder, "--out", out),
        spec={"method": {"name": "stack", "stacking_list": [0, 0, 0]}},
        check=False,
    )
    assert refused.returncode == 2
    assert "layer 1 of the base is missing" in refused.stderr
    assert not out.exists()
    run_cli("growth", "grow", "--input", folder, "--out", out, spec={"method": METHODS["stack"]})
    record = json.loads((out / "run.json").read_text())
    assert record["certificate"]["checkpoint"]["relative_deviation"] > 0.01
    # What was grown can be grown.
    again = tmp_path / "again"
    shutil.copytree(out, tmp_path / "copy")
    run_cli("growth", "grow", "--input", tmp_path / "copy", "--out", again, spec={"method": METHODS["zero_depth"]})
    assert json.loads((again / "config.json").read_text())["num_hidden_layers"] == 8


def planned(folder, method):
    from click.testing import CliRunner

    from pipelines.growth.plan import plan

    arguments = ["--spec", json.dumps({"method": method}), "--input", str(folder)]
    printed = CliRunner().invoke(plan, arguments, catch_exceptions=False).output
    return {line[:24].strip(): line[24:].strip() for line in printed.splitlines()}


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_a_plan_says_what_growing_then_gives(checkpoint, run, experts):
    folder = checkpoint(UNTIED, experts)
    lines = planned(folder, METHODS["stack"])
    grown = read_tensors(run(grow, "grown", GrowSpec(method=METHODS["stack"]), input=folder))
    size = sum(tensor.numel() for tensor in grown.values())
    assert f"-> {size:,} (x" in lines["parameters"]
    assert lines["num_layers"] == "2 -> 4"
    assert lines["connection_rate"] == "66.67"
    assert lines["stacking_list"] == "0 1 0 1"
    assert lines["preserves the function"].startswith("no: ")
    assert lines["outside the layers"] == f"{2 * 257 * 16 + 16:,} -> {2 * 257 * 16 + 16:,}"
    assert f"-> {4 * size / 1000:.3g} kB" in lines["weights on disk"]


def test_a_plan_needs_no_weight_and_refuses_what_growing_would(checkpoint, tmp_path, monkeypatch):
    from pipelines.megatron.shards import ShardFile

    folder, ours = saved_llama(tmp_path / "llama"), checkpoint()

    def never(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(ShardFile, "_bytes", never)
    assert planned(ours, METHODS["stack"])["num_layers"] == "2 -> 4"
    lines = planned(folder, METHODS["zero_depth"])
    assert lines["preserves the function"].startswith("exactly")
    assert "huggingface, bf16" in lines["input"]
    for method, message in (
        ({"name": "stack", "stacking_list": [0]}, "growth to fewer layers"),
        ({"name": "scratch"}, "grows nothing"),
    ):
        with pytest.raises(RetraceError, match=message):
            planned(folder, method)
