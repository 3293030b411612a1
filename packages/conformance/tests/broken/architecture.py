"""Architectures that break one law each; the good one averages over the past, and mixes two of four experts.

Shape suffixes: B batch, S sequence, T tokens, K experts a token, E experts, D model width, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from broken import slot_decoders
from broken.described import described
from penstock.hooks.contracts import Inputs, LossOutput, ModelOutput, ParameterLayout, ParameterRole, Router, Routing
from penstock.hooks.problems import Problem, ProblemError

ALL = frozenset(
    {"cached", "causal", "compilable", "empty-batches", "huggingface-layout", "mixed-precision", "noise-free"}
)
WIDTH, EXPERTS, LAYER = 8, 4, 0


class Past:
    """The cache of the good model: the sum of what it has read, and how many tokens that were."""

    def __init__(self, batch: int) -> None:
        self.total_BD, self.length = torch.zeros(batch, WIDTH), 0


class Good(nn.Module):
    reads: tuple[str, ...] = ()
    decoder: type[slot_decoders.Slots] = slot_decoders.Slots

    def __init__(self, *, vocab_size: int, make_router: Any, quantizer: Any = None, **settings: Any) -> None:
        super().__init__()
        self.vocabulary_size, self.quantizer, self.compute_dtype = vocab_size, quantizer, torch.float32
        self.embedding = nn.Parameter(torch.randn(vocab_size, WIDTH) * 0.5)
        self.first = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3)
        self.second = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3)
        self.bias = nn.Parameter(torch.randn(WIDTH) * 0.1)
        self.gate = make_router(LAYER, hidden_size=WIDTH, experts=EXPERTS)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) * 0.3)
        self.norm = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Parameter(torch.randn(vocab_size, WIDTH) * 0.3)

    @property
    def routers(self) -> Mapping[int, Router]:
        return {LAYER: self.gate}

    def weight(self, name: str) -> Tensor:
        weight = getattr(self, name)
        return (weight if self.quantizer is None else self.quantizer.fake_quantize(weight)).to(self.compute_dtype)

    def forward(self, inputs: Inputs | Tensor, *, cache: Past | None = None) -> ModelOutput:
        inputs = Inputs.of(inputs)
        self.check(inputs)
        x_BSD = self.known(F.embedding(inputs.token_BS, self.embedding).to(self.compute_dtype), inputs)
        x_BSD = x_BSD + self.past(torch.tanh(x_BSD @ self.weight("first").T), cache)
        x_BSD = x_BSD + torch.tanh(x_BSD @ self.weight("second").T + self.bias.to(x_BSD.dtype))
        routing = self.routing(x_BSD.flatten(0, 1))
        x_BSD = x_BSD + self.mixture(x_BSD.flatten(0, 1), routing).view_as(x_BSD)
        return ModelOutput(self.normalised(x_BSD), self.routings(routing))

    def check(self, inputs: Inputs) -> None:
        inputs.require_only("the good model", *self.reads)

    def known(self, x_BSD: Tensor, inputs: Inputs) -> Tensor:
        return x_BSD

    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        total_BSD, length_S = x_BSD.cumsum(1), torch.arange(1, x_BSD.shape[1] + 1, device=x_BSD.device)
        if cache is None:
            return total_BSD / length_S[:, None]
        total_BSD, length_S = total_BSD + cache.total_BD[:, None], length_S + cache.length
        cache.total_BD, cache.length = total_BSD[:, -1], cache.length + x_BSD.shape[1]
        return total_BSD / length_S[:, None]

    def routing(self, x_TD: Tensor) -> Routing:
        return self.gate(x_TD)

    def mixture(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """A token that is not of an expert is zero on its way in and out, so that its weights reach nothing."""
        kept_TK = torch.ones_like(routing.expert_TK) if routing.kept_TK is None else routing.kept_TK
        out_TD, nothing = torch.zeros_like(x_TD), x_TD.new_zeros(())
        for expert, weight_DD in enumerate(self.weight("experts").unbind(0)):
            here_TK = (routing.expert_TK == expert) & kept_TK.bool()
            here_T1 = here_TK.any(-1, keepdim=True)
            share_T1 = (routing.weight_TK * here_TK).sum(-1, keepdim=True).to(x_TD.dtype)
            product_TD = torch.where(here_T1, x_TD, nothing) @ weight_DD.T
            out_TD = out_TD + torch.where(here_T1, product_TD, nothing) * share_T1
        return out_TD

    def normalised(self, x_BSD: Tensor) -> Tensor:
        return F.rms_norm(x_BSD, (WIDTH,), eps=1e-5) * self.norm.to(x_BSD.dtype)

    def routings(self, routing: Routing) -> dict[int, Routing]:
        return {LAYER: routing}

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return (hidden_BSD @ self.head.to(hidden_BSD.dtype).T).float()

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        output = self(inputs)
        logits_TV = self.logits(output.hidden_BSD).flatten(0, 1)
        nll_BS = F.cross_entropy(logits_TV, target_BS.flatten(), reduction="none").view_as(target_BS)
        return LossOutput(self.total(nll_BS, mask_BS), nll_BS.detach(), output.routings)

    def total(self, nll_BS: Tensor, mask_BS: Tensor | None) -> Tensor:
        return (nll_BS if mask_BS is None else nll_BS * mask_BS).sum()

    def new_cache(self, batch: int, capacity: int) -> Past:
        return Past(batch)

    def slot_decoder(self, slots: int, positions: int) -> slot_decoders.Slots:
        return self.decoder(self, slots, positions)

    @torch.no_grad()
    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        for _ in range(tokens):
            next_B = self.chosen(self.logits(self(token_BS).hidden_BSD[:, -1]))
            token_BS = torch.cat((token_BS, next_B[:, None]), dim=1)
        return token_BS

    def chosen(self, logits_BV: Tensor) -> Tensor:
        return logits_BV.argmax(-1)

    def parameter_roles(self) -> dict[str, Any]:
        others = {
            "embedding": ParameterRole.EMBEDDING,
            "bias": ParameterRole.BIAS,
            "gate.weight": ParameterRole.ROUTER,
            "experts": ParameterRole.EXPERT,
            "norm": ParameterRole.NORM,
            "head": ParameterRole.HEAD,
        }
        return {name: others.get(name, ParameterRole.MATRIX) for name, _ in self.named_parameters()}

    def export_config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary_size,
            "hidden_size": WIDTH,
        }

    def exported_name(self, name: str) -> str:
        return "lm_head.weight" if name == "head" else f"model.{name}"

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = dict(self.state_dict())
        if materialize:
            state |= {name: self.weight(name).detach() for name in ("first", "second", "experts")}
        return {self.exported_name(name): tensor for name, tensor in state.items()}

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        names = {self.exported_name(name): name for name in self.state_dict()}
        wrong = self.wrong(set(state), set(names))
        if wrong:
            raise ProblemError([Problem("bad-checkpoint", f"tensor '{name}' is missing or unknown") for name in wrong])
        self.take({names[name]: tensor for name, tensor in state.items() if name in names})

    def wrong(self, given: set[str], known: set[str]) -> set[str]:
        return given ^ known

    def take(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state, strict=False)


class Unseeded(Good):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        with torch.no_grad():
            self.first.mul_(1 + random.SystemRandom().random() / 10)


class Shuffling(Good):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        random.random()


class OnTheProcessor(Good):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.bias = nn.Parameter(torch.zeros(WIDTH, device="cpu"))


class Preset(Good):
    def __init__(self, *, width: int = WIDTH, **arguments: Any) -> None:
        if width != WIDTH:
            raise ValueError(f"the width is {WIDTH}")
        super().__init__(**arguments)


class WithoutARole(Good):
    def parameter_roles(self) -> dict[str, Any]:
        return {name: role for name, role in super().parameter_roles().items() if name != "norm"}


class BiasAsMatrix(Good):
    def parameter_roles(self) -> dict[str, Any]:
        return super().parameter_roles() | {"bias": ParameterRole.MATRIX}


class SharedExpert(Good):
    """Its second matrix is a stack of one expert, which every token sees."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.second = nn.Parameter(self.second.detach()[None])

    def weight(self, name: str) -> Tensor:
        return super().weight(name).squeeze(0) if name == "second" else super().weight(name)

    def parameter_roles(self) -> dict[str, Any]:
        return super().parameter_roles() | {"second": ParameterRole.EXPERT}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = super().export_state(materialize=materialize)
        return state | {"model.second": state["model.second"].reshape(1, WIDTH, WIDTH)}


class Tuples(Good):
    def export_config(self) -> dict[str, Any]:
        return super().export_config() | {"architectures": ("LlamaForCausalLM",)}


class HalfLogits(Good):
    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return super().logits(hidden_BSD).bfloat16()


class Acausal(Good):
    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        return super().past(x_BSD, cache) + x_BSD.mean(1, keepdim=True)


class OverTheBatch(Good):
    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        return super().past(x_BSD, cache) + x_BSD.mean(0)


class NeverEmpty(Good):
    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        if len(x_BSD) == 0:
            raise ValueError("no texts")
        return super().past(x_BSD, cache)


class LouderInTraining(Good):
    def normalised(self, x_BSD: Tensor) -> Tensor:
        return super().normalised(x_BSD) * (1.1 if self.training else 1.0)


class Counting(Good):
    passes: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.register_buffer("passes", torch.zeros(1))

    def routing(self, x_TD: Tensor) -> Routing:
        self.passes.add_(1)
        return super().routing(x_TD)


class Branching(Good):
    def routing(self, x_TD: Tensor) -> Routing:
        return super().routing(x_TD.nan_to_num() if x_TD.isnan().any() else x_TD)


class Mislabelled(Good):
    def routings(self, routing: Routing) -> dict[int, Routing]:
        return {LAYER + 1: routing}


class AskingTwice(Good):
    def routing(self, x_TD: Tensor) -> Routing:
        self.gate(x_TD)
        return super().routing(x_TD)


class Keeping(Good):
    def mixture(self, x_TD: Tensor, routing: Routing) -> Tensor:
        return super().mixture(x_TD, replace(routing, kept_TK=None))


class Continuing(Good):
    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        return super().generate(token_BS, tokens=tokens)[:, token_BS.shape[1] :]


class Unlikely(Good):
    def chosen(self, logits_BV: Tensor) -> Tensor:
        return logits_BV.argmin(-1)


class Forgetful(Good):
    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        return super().past(x_BSD, None)


class Averaging(Good):
    def total(self, nll_BS: Tensor, mask_BS: Tensor | None) -> Tensor:
        return super().total(nll_BS, mask_BS) / max(1, nll_BS.numel())


class Unmasked(Good):
    def total(self, nll_BS: Tensor, mask_BS: Tensor | None) -> Tensor:
        return super().total(nll_BS, None)


class Dividing(Good):
    def total(self, nll_BS: Tensor, mask_BS: Tensor | None) -> Tensor:
        total = super().total(nll_BS, mask_BS)
        return total if mask_BS is None else total * (mask_BS.sum() / mask_BS.sum())


class DeadNorm(Good):
    def normalised(self, x_BSD: Tensor) -> Tensor:
        return F.rms_norm(x_BSD, (WIDTH,), eps=1e-5) * self.norm.detach().to(x_BSD.dtype)


class CutOff(Good):
    """Tokens do not learn from what later ones make of them."""

    def past(self, x_BSD: Tensor, cache: Past | None) -> Tensor:
        past_BSD = super().past(x_BSD, cache)
        return x_BSD + (past_BSD - x_BSD).detach()


class Drawing(Good):
    def routing(self, x_TD: Tensor) -> Routing:
        torch.rand(())
        return super().routing(x_TD)


class Stuck(Good):
    """Head and norm start at zero, and neither gets a gradient from the other."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        nn.init.zeros_(self.head)
        nn.init.zeros_(self.norm)


class AlwaysFp32(Good):
    def normalised(self, x_BSD: Tensor) -> Tensor:
        return super().normalised(x_BSD).float()


class WithoutTheBias(Good):
    """Does not load the router's bias."""

    def take(self, state: dict[str, Tensor]) -> None:
        super().take({name: tensor for name, tensor in state.items() if "e_score" not in name})


class Unregistered(Good):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.volume = 1 + torch.rand(())

    def normalised(self, x_BSD: Tensor) -> Tensor:
        return super().normalised(x_BSD) * self.volume


class Adopting(Good):
    def take(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state, assign=True)


class Lenient(Good):
    def wrong(self, given: set[str], known: set[str]) -> set[str]:
        return given - known


class Incurious(Good):
    def wrong(self, given: set[str], known: set[str]) -> set[str]:
        return known - given


class Immaterial(Good):
    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return super().export_state()


class Doubling(Good):
    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = super().export_state(materialize=materialize)
        return state | {"model.again": state["model.first"]}

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        if "model.again" not in state:
            raise ProblemError(Problem("bad-checkpoint", "tensor 'model.again' is missing"))
        super().load_export_state({name: tensor for name, tensor in state.items() if name != "model.again"})


class HoldingOn(Good):
    """Goes by the parameters that it was built with."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.held = dict(self.named_parameters())

    def weight(self, name: str) -> Tensor:
        weight = self.held[name]
        return (weight if self.quantizer is None else self.quantizer.fake_quantize(weight)).to(self.compute_dtype)


class Cloning(Good):
    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in super().export_state(materialize=materialize).items()}


class OtherNames(Good):
    def exported_name(self, name: str) -> str:
        return f"body.{name}"


class Overlaid(Good):
    def parameter_layout(self) -> dict[str, ParameterLayout]:
        return {"first": ParameterLayout((("gate", WIDTH // 2), ("up", WIDTH // 4)))}


class Cacheless(Good):
    @property
    def new_cache(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AttributeError("new_cache")


class Ignoring(Good):
    def check(self, inputs: Inputs) -> None:
        pass


class SeeingPadding(Good):
    """Marks real tokens, and sees padding all the same."""

    reads = ("real_BS",)

    def known(self, x_BSD: Tensor, inputs: Inputs) -> Tensor:
        return x_BSD if inputs.real_BS is None else x_BSD * (1.1 * inputs.real_BS[..., None])


class MixingDocuments(Good):
    reads = ("document_BS",)

    def known(self, x_BSD: Tensor, inputs: Inputs) -> Tensor:
        return x_BSD if inputs.document_BS is None else x_BSD + inputs.document_BS[..., None]


class HalvedSlots(Good):
    decoder = slot_decoders.Halved


class LeakingSlots(Good):
    decoder = slot_decoders.Leaking


class UncutSlots(Good):
    decoder = slot_decoders.Uncut


class ReferringSlots(Good):
    decoder = slot_decoders.Referring


class OneStreamSlots(Good):
    decoder = slot_decoders.OneStream


class RecountingSlots(Good):
    decoder = slot_decoders.Recounting


of = described("architecture", "A model that breaks one law", ALL, "broken.light:ModelSettings", contract=2)
GOOD = of(Good)
BROKEN = {
    "architecture/equal-seeds-build-equal-models": of(Unseeded),
    "architecture/building-draws-from-torch-alone": of(Shuffling),
    "architecture/a-model-on-the-meta-device-takes-no-memory": of(OnTheProcessor),
    "architecture/every-preset-can-be-built": of(Preset, config="broken.light:ArchitectureSettings"),
    "architecture/every-parameter-has-a-role": of(WithoutARole),
    "architecture/roles-fit-the-shapes": of(BiasAsMatrix),
    "architecture/expert-stacks-have-a-matrix-for-each-expert": of(SharedExpert),
    "architecture/the-exported-config-is-json": of(Tuples),
    "architecture/logits-are-fp32-over-the-vocabulary": of(HalfLogits),
    "architecture/later-tokens-change-no-earlier-logits": of(Acausal, ALL - {"cached"}),
    "architecture/texts-of-a-batch-are-independent": of(OverTheBatch),
    "architecture/a-batch-may-be-empty": of(NeverEmpty),
    "architecture/training-computes-what-evaluation-does": of(LouderInTraining),
    "architecture/evaluation-changes-nothing": of(Counting),
    "architecture/the-compiler-takes-a-pass-whole": of(Branching),
    "architecture/every-router-has-a-routing": of(Mislabelled),
    "architecture/a-router-is-asked-once-a-pass": of(AskingTwice),
    "architecture/slots-that-are-not-kept-compute-nothing": of(Keeping),
    "architecture/generated-tokens-follow-the-prompt": of(Continuing),
    "architecture/generation-is-greedy-unless-asked-otherwise": of(Unlikely),
    "architecture/a-text-may-be-read-piece-by-piece": of(Forgetful),
    "architecture/its-schema-is-one-of-architectures": of(Good, config="broken.light:OptimizerSettings"),
    "architecture/it-has-the-members-of-the-contract": of(Cacheless, ALL - {"cached"}),
    "architecture/what-a-model-cannot-read-is-refused-by-name": of(Ignoring),
    "architecture/padding-changes-nothing": of(SeeingPadding, ALL | {"padding"}),
    "architecture/documents-of-a-row-are-independent": of(MixingDocuments, ALL | {"documents"}),
    "architecture/routers-are-given-the-ids-that-they-ask-for": of(Good, ALL | {"token-ids"}),
    "architecture/the-loss-is-the-cross-entropy-of-the-logits": of(Averaging),
    "architecture/masked-targets-count-for-nothing": of(Unmasked),
    "architecture/a-batch-without-counted-targets-has-no-loss": of(Dividing),
    "architecture/the-gradient-reaches-every-parameter": of(DeadNorm),
    "architecture/the-gradient-is-the-slope-of-the-loss": of(CutOff),
    "architecture/a-pass-draws-no-random-numbers": of(Drawing),
    "architecture/training-lowers-the-loss": of(Stuck),
    "architecture/computing-in-bf16-keeps-fp32-parameters": of(AlwaysFp32),
    "architecture/an-exported-state-can-be-loaded": of(WithoutTheBias),
    "architecture/a-loaded-model-computes-the-same": of(Unregistered),
    "architecture/a-loaded-state-is-a-copy": of(Adopting),
    "architecture/a-missing-tensor-is-named": of(Lenient),
    "architecture/an-unknown-tensor-is-named": of(Incurious),
    "architecture/a-materialized-state-computes-the-same": of(Immaterial),
    "architecture/an-exported-state-can-be-written": of(Doubling),
    "architecture/a-parameter-that-is-replaced-is-used": of(HoldingOn),
    "architecture/a-shared-tensor-is-exported-once": of(Cloning),
    "architecture/transformers-has-its-class": of(OtherNames),
    "architecture/weights-are-used-through-their-sites": of(Good, ALL | {"weight-sites"}),
    "architecture/layouts-fit-their-parameters": of(Overlaid),
    "architecture/slots-compute-the-logits-of-the-model": of(HalvedSlots),
    "architecture/a-text-in-a-slot-is-what-it-is-alone": of(LeakingSlots),
    "architecture/a-slot-that-was-cut-goes-on-like-one-that-was-not": of(UncutSlots),
    "architecture/a-copied-text-goes-on-like-one-that-was-read": of(ReferringSlots),
    "architecture/a-seed-is-one-text-whatever-is-beside-it": of(OneStreamSlots),
    "architecture/loads-of-experts-count-every-token-once": of(RecountingSlots),
}
