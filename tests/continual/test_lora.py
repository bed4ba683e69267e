"""LoRA: where it goes, what its rows are ranked by, and that merging keeps the function."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from pipelines.continual.magnitudes import MagnitudeRecorder
from pipelines.continual.models import add_lora
from pipelines.continual.protocol import TokenMasks
from pipelines.continual.row_masks import rank_mask
from pipelines.continual.spec import FinetuneSpec
from pipelines.runs.errors import RetraceError


def spec(**changes):
    return FinetuneSpec(**{"method": {}, "lr": 1e-3, "adapter": "lora", "lora_rank": 8, "lora_alpha": 16.0, **changes})


def test_a_is_ranked_by_its_own_output_and_b_by_the_combined_output(make_model):
    model = make_model("llama")
    add_lora(model, spec(lora_targets=("q_proj",)))
    layer = model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    inputs = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    for trained in (False, True):
        if trained:
            torch.nn.init.normal_(b, generator=torch.Generator().manual_seed(1))
        recorder = MagnitudeRecorder(model, set(), count_padding=False, per_token=False)
        assert len(recorder.sources) == 2 * 2
        source_a, source_b = recorder.sources[:2]
        assert source_a.weight is a
        assert source_b.weight is b
        recorder.start(TokenMasks(torch.ones(2, 5)))
        layer(inputs)
        recorder.detach()
        with torch.no_grad():
            low = linear(inputs, a)
            combined = linear(inputs, layer.base_layer.weight) + 2.0 * linear(low, b)
        torch.testing.assert_close(source_a.magnitudes, low.abs().sum(dim=(0, 1)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(source_b.magnitudes, combined.abs().sum(dim=(0, 1)), rtol=1e-5, atol=1e-6)
        assert source_a.mask(lambda n: rank_mask(n, 0.7)).sum() == 8 - 5
        # With B still zero its own output says nothing; the combined output already selects.
        assert source_b.mask(lambda n: rank_mask(n, 0.7)).sum() == 16 - 11
        assert len(source_b.magnitudes.unique()) == 16


def test_only_adapters_move_and_merging_keeps_the_function(train, make_family, encoded_tasks, make_model):
    from peft import PeftModel

    model = make_model("llama")
    adapted = add_lora(model, spec())
    assert isinstance(adapted, PeftModel)
    trainable = [name for name, each in model.named_parameters() if each.requires_grad]
    assert len(trainable) == 2 * 7 * 2
    assert all("lora_" in name for name in trainable)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    prompts = [prompt for prompt, _ in encoded_tasks[0].test]
    model.eval()
    with torch.inference_mode():
        before = make_family("llama", model).option_scores(prompts, encoded_tasks[0])
    merged = adapted.merge_and_unload()
    assert type(merged) is type(make_model("llama"))
    with torch.inference_mode():
        after = make_family("llama", merged).option_scores(prompts, encoded_tasks[0])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name in merged.state_dict())


def test_frozen_weights_stay_bit_identical(train, make_model):
    model, _, _ = train("llama", {"name": "migu"}, adapter="lora")
    original = make_model("llama").state_dict()
    frozen = {
        name.replace(".base_layer", ""): each for name, each in model.named_parameters() if not each.requires_grad
    }
    assert len(frozen) == len(list(make_model("llama").parameters()))
    assert all(torch.equal(value, original[name]) for name, value in frozen.items())


def test_a_new_classification_head_trains_beside_the_adapter(make_model):
    model = make_model("roberta")
    add_lora(model, spec())
    trainable = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {"classifier.dense.weight", "classifier.out_proj.bias"} <= trainable
    assert not any("lora" in name for name in trainable if name.startswith("classifier"))


def test_default_targets_are_all_linear_layers_but_the_output(make_model):
    model = make_model("mixtral")
    add_lora(model, spec())
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_targets_that_match_nothing_are_refused_with_what_there_is(make_model):
    with pytest.raises(RetraceError, match=r"lora_targets: no linear layer is named query; .* k_proj, o_proj"):
        add_lora(make_model("mixtral"), spec(lora_targets=("q_proj", "query")))
