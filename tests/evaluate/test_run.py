"""Models from their folders: both kinds score alike, twice the same bytes, and nothing in a folder is executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.evaluate.models import find_model, load_lm
from pipelines.evaluate.run import run
from pipelines.evaluate.spec import RunSpec, TasksSpec, one_process
from pipelines.evaluate.tasks import tasks
from pipelines.megatron.export import export
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.methods import resolve_method
from pipelines.runs.verb import Execution, Spec

SHAPE = ModelSpec(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=64,
    init_method_std=0.3,
)
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=24)
KINDS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "topk": {"name": "topk"},
    "rmoe": {"name": "rmoe", "recurrent_size": 8},
}


def write_model(out: Path, kind: str, vocab_size: int, tokenizer_key: str | None = None) -> Path:
    """A checkpoint of random weights."""
    from pipelines.megatron import backend
    from pipelines.megatron.checkpoint import write_checkpoint
    from pipelines.megatron.initialisation import global_names
    from pipelines.megatron.model import build_model
    from pipelines.runs.methods import load_method

    method = KINDS[kind]
    experts = EXPERTS if method else None
    backend.initialize(Execution(), experts)
    router = load_method("moe", method) if method else None
    model = build_model(
        SHAPE,
        vocab_size,
        experts,
        seed=3,
        router_builder=router and router.router(),
        prepare=router and router.attach,
    )
    names = global_names(model)
    config = {
        "model": SHAPE.model_dump(),
        "experts": experts and experts.model_dump(),
        "moe_method": method and resolve_method("moe", method),
        "vocab_size": vocab_size,
        "tokenizer_key": tokenizer_key,
        "tokens_seen": 0,
        "flops_spent": 0,
    }
    out.mkdir(parents=True)
    write_checkpoint(out, config, {names[name]: each for name, each in model.named_parameters()})
    return out


@pytest.fixture(scope="module", autouse=True)
def _groups_end() -> Iterator[None]:
    yield
    from pipelines.megatron import backend

    backend.shutdown()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers, harness tasks, checkpoints and their exports."""
    from pipelines.tokenizer.spec import TokenizerSpec
    from pipelines.tokenizer.train import train as train_tokenizer

    conftest = Path(__file__).parent / "conftest.py"
    namespace: dict[str, Any] = {}
    exec(compile(conftest.read_text(), str(conftest), "exec"), namespace)
    root = tmp_path_factory.mktemp("house")

    def job(name: str) -> Job:
        (root / name).mkdir()
        return Job(root / name, name, Execution())

    corpus = root / "corpus"
    corpus.mkdir()
    namespace["write_rows"](corpus / "validation.jsonl", namespace["made_up_rows"](12, 8, 1, "held"))
    namespace["write_rows"](corpus / "train.jsonl", namespace["made_up_rows"](8, 8, 2, "train"))
    for method in ("bpe", "scaffold_bpe"):
        spec = TokenizerSpec(method=resolve_method("tokenizer", method), vocab_size=320)
        train_tokenizer(spec, {"corpus": corpus}, job(method))
    tasks(TasksSpec(max_items=20), {"corpus": corpus}, job("tasks"))
    for kind in KINDS:
        write_model(root / kind, kind, 320)
    for kind in ("dense", "topk"):
        export(Spec(), {"checkpoint": root / kind, "tokenizer": root / "scaffold_bpe"}, job(f"{kind}_hf"))
    return root


def requests(house: Path) -> list[Any]:
    from types import SimpleNamespace

    found = []
    for line in (house / "tasks" / "next_sentence_proxy.jsonl").read_text().splitlines()[:6]:
        row = json.loads(line)
        found += [SimpleNamespace(args=(row["query"], f" {choice}")) for choice in row["choices"]]
    return [*found, SimpleNamespace(args=("", " Every lantern follows the falcon."))]


def texts(house: Path) -> list[Any]:
    from types import SimpleNamespace

    rows = (house / "corpus" / "validation.jsonl").read_text().splitlines()[:2]
    return [SimpleNamespace(args=(json.loads(row)["text"],)) for row in rows]


def load(model: Path, tokenizer: Path | None = None, max_length: int | None = None) -> Any:
    return load_lm(model, tokenizer, execution=Execution(), batch_size=5, max_length=max_length)


@pytest.mark.parametrize("kind", ["dense", "topk"])
@pytest.mark.parametrize("max_length", [None, 40])
def test_a_checkpoint_and_its_export_score_alike(house: Path, kind: str, max_length: int | None) -> None:
    ours, theirs = load(house / kind, house / "scaffold_bpe", max_length), load(house / f"{kind}_hf", None, max_length)
    found, expected = ours.loglikelihood(requests(house)), theirs.loglikelihood(requests(house))
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=2e-3, rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.num_truncated == theirs.num_truncated
    assert (ours.num_truncated > 0) == (max_length is not None)
    rolling = ours.loglikelihood_rolling(texts(house))
    assert rolling == pytest.approx(theirs.loglikelihood_rolling(texts(house), disable_tqdm=True), rel=1e-5)


def test_the_routers_of_a_checkpoint_are_those_of_its_method(house: Path) -> None:
    found = {kind: load(house / kind, house / "bpe").loglikelihood(requests(house)) for kind in KINDS}
    assert len({tuple(each) for each in found.values()}) == 3
    again = load(house / "rmoe", house / "bpe").loglikelihood(requests(house))
    assert found["rmoe"] == again


def test_right_padding_changes_no_score(house: Path) -> None:
    one = load_lm(house / "rmoe", house / "bpe", execution=Execution(), batch_size=1, max_length=None)
    many = load_lm(house / "rmoe", house / "bpe", execution=Execution(), batch_size=32, max_length=None)
    found, expected = many.loglikelihood(requests(house)), one.loglikelihood(requests(house))
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)


@pytest.mark.parametrize(("model", "tokenizer"), [("dense_hf", None), ("dense", "scaffold_bpe"), ("rmoe", "bpe")])
def test_a_run_writes_the_metrics_of_every_task(
    house: Path, make_job: Callable, model: str, tokenizer: str | None
) -> None:
    inputs = {"model": house / model, "tasks": house / "tasks"}
    if tokenizer:
        inputs["tokenizer"] = house / tokenizer
    first, again = make_job("first"), make_job("again")
    final = run(RunSpec(num_fewshot=1, batch_size=8), inputs, first)
    assert final == run(RunSpec(num_fewshot=1, batch_size=8), inputs, again)
    assert (first.out / "results.json").read_bytes() == (again.out / "results.json").read_bytes()
    accuracies = ["cloze_proxy_acc", "next_sentence_proxy_acc", "word_order_proxy_acc"]
    assert set(final) == {*accuracies, "cloze_proxy_ppl", "next_sentence_proxy_acc_norm", "average_acc", "num_items"}
    assert final["average_acc"] == pytest.approx(sum(final[name] for name in accuracies) / 3)
    results = json.loads((first.out / "results.json").read_text())
    assert results["results"]["word_order_proxy"]["acc,none"] == final["word_order_proxy_acc"]
    assert results["results"]["word_order_proxy"]["acc_stderr,none"] > 0
    assert results["n-shot"] == {"cloze_proxy": 1, "next_sentence_proxy": 1, "word_order_proxy": 0}
    assert results["tasks"]["next_sentence_proxy"]["chance"] == 0.25
    assert str(house) not in json.dumps(results)


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_quietly_and_leaves_the_home_folder_alone(
    house: Path, tmp_path: Path, make_job: Callable, run_cli: Callable
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    spec = {"tasks": ["word_order_proxy"], "limit": 8}
    done = run_cli(
        *("evaluate", "run", "--model", house / "dense_hf", "--tasks", house / "tasks", "--out", tmp_path / "out"),
        spec=spec,
        env={"HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")},
    )
    assert done.stdout == ""
    assert "it/s" not in done.stderr
    assert "arning" not in done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    job = make_job("here")
    run(RunSpec(**spec), {"model": house / "dense_hf", "tasks": house / "tasks"}, job)
    assert (tmp_path / "out" / "results.json").read_bytes() == (job.out / "results.json").read_bytes()


def test_the_model_may_lie_inside_an_artifact(house: Path, tmp_path: Path) -> None:
    (tmp_path / "finetuned").mkdir()
    (tmp_path / "finetuned" / "model").symlink_to(house / "dense_hf")
    folder, config = find_model(tmp_path / "finetuned")
    assert folder == tmp_path / "finetuned" / "model"
    assert config["model_type"] == "llama"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no config\.json, nor has its model/"),
        ({"config.json": "{"}, r"config\.json is not JSON"),
        ({"config.json": "{}"}, r"neither a Hugging Face config .* nor a checkpoint"),
        ({"config.json": '{"model_type": "llama"}'}, r"has no tokenizer\.json: give --tokenizer"),
        ({"config.json": '{"format": "retrace-megatron-1"}', "tokenizer.json": ""}, r"config\.json lacks model"),
        ({"config.json": '{"model_type": "llama"}', "tokenizer.json": ""}, r"has no \.safetensors file"),
        (
            {"config.json": '{"model_type": "llama"}', "tokenizer.json": "", "pytorch_model.bin": "pickled"},
            r"has no \.safetensors file",
        ),
        (
            {"config.json": '{"model_type": "made-up"}', "tokenizer.json": "", "model.safetensors": ""},
            r"transformers cannot load it as a causal language model",
        ),
        (
            {"config.json": '{"model_type": "t5"}', "tokenizer.json": "", "model.safetensors": ""},
            r"transformers cannot load it as a causal language model",
        ),
        (
            {"config.json": '{"model_type": "llama"}', "tokenizer.json": "", "model.safetensors": "cut"},
            r"transformers cannot load it as a causal language model",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RetraceError, match=message):
        load(tmp_path)


def test_missing_weights_are_refused_and_not_made_up(house: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(house / "dense_hf", folder)
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RetraceError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight \(1 in all\)"):
        load(folder)


def test_code_in_a_model_folder_is_never_executed(house: Path, tmp_path: Path) -> None:
    folder, marker = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(house / "dense_hf", folder)
    for name in ("modeling_own", "configuration_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}})
    )
    found = load(folder).loglikelihood(requests(house)[:2])
    assert found == load(house / "dense_hf").loglikelihood(requests(house)[:2])
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    with pytest.raises(RetraceError, match="transformers cannot load it"):
        load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("model", ["dense", "dense_hf"])
def test_a_length_beyond_the_model_is_refused(house: Path, model: str) -> None:
    with pytest.raises(RetraceError, match="max_length 65 exceeds the 64 positions"):
        load(house / model, house / "scaffold_bpe", max_length=65)


def test_a_foreign_tokenizer_is_refused(house: Path, tmp_path: Path) -> None:
    small, keyed = write_model(tmp_path / "small", "dense", 100), write_model(tmp_path / "keyed", "dense", 320, "abc")
    with pytest.raises(RetraceError, match=r"has 320 tokens, .* embeds 100"):
        load(small, house / "bpe")
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(house / "bpe", tokenizer)
    (tokenizer / "run.json").write_text('{"key": "another"}')
    with pytest.raises(RetraceError, match=r"is not the tokenizer .* was trained with \(tokenizer_key abc"):
        load(keyed, tokenizer)
    (tokenizer / "run.json").write_text('{"key": "abc"}')
    assert load(keyed, tokenizer).max_length == 64


def test_few_shot_examples_must_leave_an_item_over(house: Path, make_job: Callable) -> None:
    with pytest.raises(RetraceError, match="num_fewshot 20 must be below the 20 items of cloze_proxy"):
        run(RunSpec(num_fewshot=20), {"model": house / "dense", "tasks": house / "tasks"}, make_job("out"))


def test_more_than_one_process_is_refused() -> None:
    with pytest.raises(RetraceError, match="evaluate run scores in one process, got 2"):
        one_process(RunSpec(), Execution(processes=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_said(house: Path) -> None:
    for model in ("dense", "dense_hf"):
        with pytest.raises(RetraceError, match="--exec device cuda: torch sees no GPU here"):
            load_lm(house / model, house / "bpe", execution=Execution(device="cuda"), batch_size=1, max_length=None)
