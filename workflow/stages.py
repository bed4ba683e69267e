"""The jobs of every stage, upstream first: what each is made with, and of what."""

from __future__ import annotations

from typing import Any

from pipelines.continual.spec import FinetuneSpec
from pipelines.forecast.spec import PredictSpec
from pipelines.growth.spec import InterpolateSpec, LevelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import method_card
from workflow.growth_bases import CYCLE_POLICIES, check_cycle, smaller_base, smaller_model
from workflow.plan import Plan, Values, overridden, setting
from workflow.schemas.paper import DEFAULT_METHODS
from workflow.schemas.params import MethodParams, Params

GROWTH_POLICIES = ("optimizer_policy", "schedule_policy", "data_policy")


class StagePlan(Plan):
    """Jobs by what is wanted: each method plans one, with everything behind it, and returns its folder."""

    def __init__(self, params: Params, methods: MethodParams) -> None:
        super().__init__()
        self.params = params
        self.methods = methods

    def corpus(self, domain: str, seed: int) -> str:
        """A corpus of one domain."""
        spec = {**_given(self.params.data), "seed": seed}
        if spec.get("source", "embedded") == "embedded":
            spec["domain"] = domain
        folder = self._folder("corpus", "data", spec)
        return self.add(f"results/data/{domain}/seed{seed}", "data", "build", spec, folder=folder)

    def other_corpus(self) -> str | None:
        """Text of another domain, to see how far tokenizers reach; None where none is given."""
        spec = {**_given(self.params.data), "seed": 0}
        source = spec.get("source", "embedded")
        if source == "embedded":
            return self.add("results/data/source/seed0", "data", "build", {**spec, "domain": "source"})
        folder = self.params.folders.other_corpus if source == "local" else None
        if folder is None:
            return None
        return self.add("results/data/other/seed0", "data", "build", spec, folder=folder)

    def tokenizer(self, method: str, overrides: Values, seed: int) -> str:
        """A tokenizer trained on the corpus of a seed."""
        base = {**_given(self.params.tokenizer.train), "method": self.methods.of("tokenizer", method)}
        path = f"results/tokenizer/{method}/{setting(base, overrides)}/seed{seed}"
        return self.add(path, "tokenizer", "train", overridden(base, overrides), corpus=self.corpus("prose", seed))

    def vocabulary(self, tokenizer: str, seed: int) -> str:
        """The measurements of a tokenizer, in its domain and, where there is another, outside it."""
        path = tokenizer.replace("results/tokenizer/", "results/vocabulary/")
        spec = _given(self.params.tokenizer.measure)
        corpora = {"corpus": self.corpus("prose", seed), "other": self.other_corpus()}
        return self.add(path, "tokenizer", "measure", spec, tokenizer=tokenizer, **corpora)

    def tokens(self, method: str, overrides: Values | None = None) -> str:
        """The corpus that models train on, as tokens of one tokenizer.

        Args:
            overrides: of the tokenizer's spec.
        """
        tokenizer = self.tokenizer(method, overrides or {}, 0)
        path = tokenizer.replace("results/tokenizer/", "results/tokens/")
        return self.add(path, "tokenizer", "tokenize", {}, tokenizer=tokenizer, corpus=self.corpus("prose", 0))

    def pretrained(self, method: str, overrides: Values, seed: int) -> str:
        """A model from scratch, its linear layers in the form of a method.

        Keys that start with ``tokenizer.`` set the tokenizer whose tokens it reads, and that one's spec.
        """
        own, upstream = _split(overrides, "tokenizer")
        default = self.params.tokenizer.method
        tokenizer = str(upstream.pop("method", default))
        base = {**self.params.pretrain.model_dump(mode="json"), "method": self.methods.of("pretrain", method)}
        named = {**base, "tokenizer": {**_given(self.params.tokenizer.train), "method": default}}
        return self.add(
            f"results/pretrain/{method}/{setting(named, overrides)}/seed{seed}",
            "pretrain",
            "train",
            {**overridden(base, own), "seed": seed},
            tokens=self.tokens(tokenizer, upstream),
        )

    def grown(self, method: str, overrides: Values, seed: int) -> str:
        """A grown model, or one trained from scratch beside it.

        Keys that start with ``pretrain.`` set the base model's spec. With keys that start with ``base.`` the base is
        itself a grown model, by the same method, and they set its spec: growth in two hops. With keys that start with
        ``cycle.`` the base is the large model in the middle of a V-cycle, as these say. What grows in width starts
        from a base as deep as the target and as much narrower as the method makes it wider; what grows along both axes,
        from one as much smaller.
        """
        growth, pretrain = self.params.growth, self.params.pretrain.model_dump(mode="json")
        base = self._growth_spec(method)
        later, upstream = _split(overrides, "pretrain")
        later, between = _split(later, "base")
        own, cycle = _split(later, "cycle")
        start = None
        if "base" in method_card("growth", method).requires:
            # Scratch has no policies of growth: changing them is not to train it again.
            base |= {policy: getattr(growth, policy) for policy in GROWTH_POLICIES}
            keep = {"training.save_optim": True} if overridden(base, own)["optimizer_policy"] != "fresh" else {}
            if cycle:
                base |= CYCLE_POLICIES
                check_cycle(own, between)
                start = self._interpolated(cycle, upstream, seed)
            elif between:
                roots = {f"pretrain.{key}": value for key, value in upstream.items()}
                start = self.grown(method, {**roots, **between, **keep}, seed)
            else:
                upstream = {**smaller_base(method, overridden(base, own)), **upstream}
                start = self.pretrained(DEFAULT_METHODS["pretrain"], {**upstream, **keep}, seed)
        elif len(own) < len(overrides):
            raise RetraceError(f"{', '.join(sorted(set(overrides) - set(own)))}: {method} starts from no base model")
        named = {**base, "pretrain": pretrain, "base": base, "cycle": self._cycle_spec()}
        # A cycle shows in the name even where all its keys are the defaults.
        marked = {**overrides, "cycle.level": "interpolated"} if cycle else overrides
        return self.add(
            f"results/growth/{method}/{setting(named, marked)}/seed{seed}",
            "growth",
            "train",
            {**overridden(base, own), "seed": seed},
            tokens=self.tokens(self.params.tokenizer.method),
            base=start,
        )

    def _growth_spec(self, method: str) -> Values:
        return {
            "method": self.methods.of("growth", method),
            "model": {**_given(self.params.pretrain.model), **_given(self.params.growth.model)},
            "training": {**_given(self.params.pretrain.training), **_given(self.params.growth.training)},
        }

    def _cycle_spec(self) -> Values:
        specs = {
            name: field.default for spec in (LevelSpec, InterpolateSpec) for name, field in spec.model_fields.items()
        }
        return {**specs, "training": self._growth_spec("stack")["training"]}

    def _interpolated(self, cycle: Values, upstream: Values, seed: int) -> str:
        """The large model in the middle of a V-cycle: trained, coalesced, trained small, de-coalesced and mixed.

        Args:
            cycle: ``depth``, ``width`` and ``interpolation_coeff``, and keys of the small model's ``training``.
            upstream: of the large model's first training.
        """
        spec, growth = overridden(self._cycle_spec(), cycle), self._growth_spec("stack")
        level, mixing = ({name: spec[name] for name in each.model_fields} for each in (LevelSpec, InterpolateSpec))
        shape = {f"model.{key}": value for key, value in growth["model"].items()}
        large = self.pretrained(DEFAULT_METHODS["pretrain"], {**shape, **upstream}, seed)
        named = {"pretrain": self.params.pretrain.model_dump(mode="json"), "cycle": self._cycle_spec()}
        keys = {f"cycle.{key}": value for key, value in cycle.items()}
        keys |= {f"pretrain.{key}": value for key, value in upstream.items()}
        # Models that differ in the mixture alone share everything before it.
        before = {key: value for key, value in keys.items() if key.removeprefix("cycle.") not in mixing}
        ending = f"{setting(named, before)}/seed{seed}"
        coalesced = self.add(f"results/levels/coalesced/{ending}", "growth", "coalesce", level, input=large)
        small = {
            **growth,
            "method": {"name": "stack", "growth_factor": 1},
            "training": spec["training"],
            **CYCLE_POLICIES,
        }
        smaller = smaller_model(growth["model"], {axis: (axis, level[axis]) for axis in level}, "cycle")
        trained = self.add(
            f"results/growth/stack/{setting(named, {**before, 'cycle.level': 'coalesced'})}/seed{seed}",
            "growth",
            "train",
            {**overridden(small, smaller), "seed": seed},
            tokens=self.tokens(self.params.tokenizer.method),
            base=coalesced,
        )
        again = self.add(f"results/levels/decoalesced/{ending}", "growth", "decoalesce", level, input=trained)
        path = f"results/levels/interpolated/{setting(named, keys)}/seed{seed}"
        return self.add(path, "growth", "interpolate", mixing, before=large, after=again)

    def experts(self, method: str, overrides: Values, seed: int) -> str:
        """A mixture-of-experts model, from scratch or upcycled from the grown one."""
        moe, pretrain, growth = self.params.moe, self.params.pretrain, self.params.growth
        training = {**_given(pretrain.training), **_given(moe.training)}
        base: Values = {
            "method": self.methods.of("moe", method),
            "model": {**_given(pretrain.model), **_given(moe.model)},
            "experts": _given(moe.experts),
            "training": training,
            "micro_batch_size": moe.micro_batch_size,
            "init": "scratch",
        }
        name = setting(base, overrides)
        dense = None
        if overrides.get("init") == "upcycle":
            # An upcycled model has the dense model's shape, and each expert the size of its FFN.
            base["model"] = {**_given(pretrain.model), **_given(growth.model)}
            base["experts"] = {**_given(moe.experts), "moe_ffn_hidden_size": base["model"]["ffn_hidden_size"]}
            base["training"] = {**training, **_given(moe.upcycle.training)}
            dense = self.grown(moe.upcycle.growth, {}, seed)
        return self.add(
            f"results/moe/{method}/{name}/seed{seed}",
            "moe",
            "train",
            {**overridden(base, overrides), "seed": seed},
            tokens=self.tokens(self.params.tokenizer.method),
            dense=dense,
        )

    def finetuned(self, method: str, overrides: Values, seed: int) -> str:
        """The chain's model, finetuned on the sequence of tasks."""
        continual = self.params.continual
        base = {**_defaulted(continual.finetune), "method": self.methods.of("continual", method)}
        return self.add(
            f"results/continual/{method}/{setting(base, overrides)}/seed{seed}",
            "continual",
            "finetune",
            {**overridden(base, overrides), "seed": seed},
            model=self.exported(self.experts(continual.moe, {"init": "upcycle"}, seed)),
            tasks=self.labelled_tasks(),
        )

    def forecast(self, method: str, overrides: Values, seed: int) -> str:
        """A law's forecast of the base model's loss. Keys that start with ``pretrain.`` set that model's spec."""
        base = {"cut": PredictSpec.model_fields["cut"].default, **_given(self.params.forecast.predict)}
        base["method"] = self.methods.of("forecast", method)
        own, upstream = _split(overrides, "pretrain")
        pretrain = self.params.pretrain.model_dump(mode="json")
        return self.add(
            f"results/forecast/{method}/{setting({**base, 'pretrain': pretrain}, overrides)}/seed{seed}",
            "forecast",
            "predict",
            overridden(base, own),
            run=self.pretrained(DEFAULT_METHODS["pretrain"], upstream, seed),
        )

    def positions(self, run: str) -> str:
        """The law over positions, fitted to what a training logged."""
        path = run.replace("results/", "results/positions/", 1)
        return self.add(path, "forecast", "positions", _given(self.params.forecast.positions), run=run)

    def pairs(self) -> str:
        """The parallel text that translation models train on."""
        return self.add(
            "results/data/pairs",
            "translation",
            "pairs",
            _given(self.params.translation.pairs),
            folder=self.params.folders.translation,
        )

    def translated(self, overrides: Values, seed: int) -> str:
        """A translation model; its tokenizer learns from both sides of the same pairs.

        Keys that start with ``tokenizer.`` set that tokenizer's spec.
        """
        translation = self.params.translation
        own, upstream = _split(overrides, "tokenizer")
        method = str(upstream.pop("method", self.params.tokenizer.method))
        learnt = {
            **_given(self.params.tokenizer.train),
            **_given(translation.tokenizer),
            "method": self.methods.of("tokenizer", method),
        }
        # Beside the tokenizers of the corpus, which have other settings of the same names.
        tokenizer = self.add(
            f"results/tokenizer/{method}/translation,{setting(learnt, upstream)}/seed0",
            "tokenizer",
            "train",
            overridden(learnt, upstream),
            corpus=self.pairs(),
        )
        base = {name: _given(getattr(translation, name)) for name in ("model", "training", "decoding")}
        varied = {key: value for key, value in overrides.items() if key != "tokenizer.method"}
        return self.add(
            f"results/translation/{method}/{setting({**base, 'tokenizer': learnt}, varied)}/seed{seed}",
            "translation",
            "train",
            {**overridden(base, own), "seed": seed},
            pairs=self.pairs(),
            tokenizer=tokenizer,
        )

    def labelled_tasks(self) -> str:
        """The tasks of continual finetuning."""
        spec = _given(self.params.continual.tasks)
        folder = self._folder("tasks", "continual.tasks", spec)
        return self.add("results/data/tasks", "data", "tasks", spec, folder=folder)

    # Models out of a run

    def exported(self, checkpoint: str) -> str:
        """A checkpoint as a Hugging Face model."""
        tokenizer = self._tokenizer_of(checkpoint)
        path = checkpoint.replace("results/", "results/export/", 1)
        return self.add(path, "megatron", "export", {}, checkpoint=checkpoint, tokenizer=tokenizer)

    def evaluation(self, run: str) -> str:
        """The harness's scores of a run's model, as it lies: a checkpoint, or a finetuned Hugging Face model."""
        path = run.replace("results/", "results/evaluate/", 1)
        tokenizer = None if run.split("/")[1] == "continual" else self._tokenizer_of(run)
        spec = _given(self.params.evaluate.run)
        return self.add(path, "evaluate", "run", spec, model=run, tokenizer=tokenizer, tasks=self.harness_tasks())

    def harness_tasks(self) -> str:
        """The evaluation tasks."""
        spec = _given(self.params.evaluate.tasks)
        folder = self._folder("harness", "evaluate.tasks", spec)
        corpus = None if folder else self.corpus("prose", 0)
        return self.add("results/evaluate/tasks", "evaluate", "tasks", spec, corpus=corpus, folder=folder)

    def _folder(self, name: str, block: str, spec: Values) -> str | None:
        """The local folder that a block with ``source: local`` reads.

        Raises:
            RetraceError: no folder is given.
        """
        if spec.get("source") != "local":
            return None
        folder: str | None = getattr(self.params.folders, name)
        if folder is None:
            raise RetraceError(f"params.yaml: {block}.source is local, so folders.{name} must name its folder")
        return folder

    def _tokenizer_of(self, run: str) -> str:
        """The tokenizer whose tokens a run was trained on."""
        tokens = self[run].inputs["tokens"]
        return str(self[str(tokens)].inputs["tokenizer"])


def _split(overrides: Values, stage: str) -> tuple[Values, Values]:
    """The overrides of a run's own spec, and those of a stage upstream, by the keys of that stage's spec."""
    prefix = f"{stage}."
    own = {key: value for key, value in overrides.items() if not key.startswith(prefix)}
    return own, {key.removeprefix(prefix): value for key, value in overrides.items() if key.startswith(prefix)}


def _given(block: Any) -> Values:
    values: Values = block.model_dump(mode="json", exclude_unset=True)
    return values


def _defaulted(block: Any) -> Values:
    """A finetuning block with the spec's own defaults, so that an override equal to one changes no folder."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in FinetuneSpec.model_fields.items()
        if not field.is_required()
    }
    return {**defaults, **_given(block)}
