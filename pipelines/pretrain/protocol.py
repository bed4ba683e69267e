"""What a pretraining method is: the form in which the linear layers of a dense model are trained.

Whatever the form, the checkpoint holds dense weights under their usual names, so that growth, export and evaluation
take any of them; factors lie beside the weights. Method files import no torch at module level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from pipelines.megatron.spec import ModelSpec


class PretrainMethod(Protocol):
    """Hooks of a pretraining method (a frozen dataclass of its hyper-parameters).

    Attributes:
        requires: inputs of ``pretrain train`` that it cannot do without.
        composes: whether weights are composed of what is trained, instead of trained themselves.
    """

    requires: ClassVar[tuple[str, ...]]
    composes: ClassVar[bool]

    def attach(self, model: Any, spec: ModelSpec, seed: int) -> None:
        """Give the built model, whose weights are not filled yet, the parameters that this method trains.

        What training changes must be a parameter, and what it must keep a buffer: checkpoints of an unfinished job
        hold these.

        Args:
            seed: of what is random beside initial weights.

        Raises:
            RetraceError: the hyper-parameters do not fit the model.
        """
        ...

    def num_parameters(self, spec: ModelSpec, vocab_size: int) -> int:
        """Numbers that are trained, embedding and norms included."""
        ...

    def num_indices(self, spec: ModelSpec) -> int:
        """Places of sparse entries that are stored beside them."""
        ...

    def extra_flops_per_step(self, spec: ModelSpec) -> int:
        """Operations of a forward pass beyond those of dense weights, once a step whatever its micro-batches."""
        ...
