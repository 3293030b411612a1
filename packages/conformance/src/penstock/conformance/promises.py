"""The capabilities that a component of each kind may declare, and what each promises; imports no law."""

from __future__ import annotations

CAPABILITIES: dict[str, dict[str, str]] = {
    "architecture": {
        "cached": "`new_cache(batch, capacity)` makes a cache for reading a text in pieces",
        "causal": "the logits of a position depend on no later token",
        "compilable": "torch.compile captures a forward pass as one graph",
        "documents": "documents packed into one row are kept apart (`Inputs.document_BS`)",
        "empty-batches": "an empty batch works, forward and backward",
        "huggingface-layout": "config.json and tensor names match a transformers class",
        "mixed-precision": "with `compute_dtype` bf16 the model computes in bf16; parameters and gradients stay fp32",
        "noise-free": "training computes the same logits as evaluation: no dropout and no jitter",
        "padding": "texts of unequal length may be padded on either side (`Inputs.real_BS`)",
        "token-ids": "routers get the token ids that they ask for",
        "weight-sites": "`weight_sites` lets sharing and quantizers of contract 2 change weights",
    },
    "balance-loss": {
        "additive": "the loss of a batch is the mean of its parts' losses, weighted by their tokens",
        "compilable": "torch.compile captures the loss as one graph",
        "counts-choices": "the load counts the experts that were actually chosen, selection bias included",
        "counts-dropped": "choices that capacity turned away count too",
        "exact-gradient": "the gradient is the true derivative as long as the choice stays the same",
        "exact-in-fp64": "the loss of an fp64 routing is computed in fp64",
        "expert-symmetric": "renumbering the experts does not change the loss",
        "load-balancing": "the loss is higher if few experts get most tokens, and its gradient evens out the load",
        "logit-regularizing": "larger logits cost more",
        "mean-over-tokens": "repeating the batch does not change the loss",
        "no-host-sync": "the loss reads no tensor values, so it never waits for the device",
        "one-at-balance": "an even load costs 1",
        "order-free": "the order of tokens does not change the loss",
    },
    "balancer": {
        "exact-counts": "loads that differ by one are distinguished, however large they are",
        "expert-symmetric": "renumbering the experts renumbers the update",
        "selection-bias": "the balancer sets the router's selection bias, and refuses a router without one",
        "scale-free": "the update depends on the shares of the load, not on its size",
    },
    "corpus": {
        "fingerprint": "fingerprint() detects changes of the input cheaply, without reading it",
    },
    "engine": {
        "several-ranks": "processes started by torchrun train one model, like one process with as many micro-batches"
    },
    "filter": {
        "drops-only": "every document that passes is unchanged",
        "idempotent": "filtering a second time changes nothing more",
        "stateless": "one object filters a second stream like the first",
    },
    "objective": {
        "classification": "it trains a `TaskModel` that predicts a label for each text",
        "masked-lm": "it trains a `MaskedLanguageModel`, which predicts hidden tokens from both sides",
        "spans": "it trains a `TaskModel` that predicts the first and the last token of an answer",
        "tags": "it trains a `TaskModel` that predicts a label for each token",
    },
    "observer": {"exact-resume": "a resumed run leaves the same files as an uninterrupted one"},
    "optimizer": {
        "bf16-parameters": "bf16 parameters are stepped, and stay finite and bf16",
        "sharded": "parameters of which each rank has some rows are stepped to the bits of one process",
    },
    "placement": {
        "equal-slots": "every GPU gets the same number of experts if they divide evenly",
        "load-aware": "a skewed load is spread better than by placing experts in order",
    },
    "quantizer": {
        "any-width": "a weight with rows of any width is packed",
        "compilable": "torch.compile captures the quantizer as one graph, value and gradient",
        "deterministic": "equal weights give equal results, without drawing from global generators",
        "embeddings": "embeddings can be stored in the format",
        "experts": "stacked experts can be stored in the format",
        "heads": "output heads can be stored in the format",
        "idempotent": "quantizing a quantized weight again changes nothing",
        "identity-gradient": "the gradient passes from the result to the weight unchanged",
        "matrices": "matrices of attention and dense MLPs can be stored in the format",
        "odd": "the negative of a weight is quantized to the negative of its result",
        "packable": "`pack` and `unpack` write and read the bytes of the format",
        "routers": "router gates are quantized too",
        "scale-equivariant": "scaling a weight by a power of two scales its result by the same power",
    },
    "router": {
        "batch-invariant": "a token's routing does not depend on the other tokens of the batch",
        "capacity-bounded": "no expert computes more tokens than `capacity(tokens)`, a method of the router",
        "causal": "a token's routing does not depend on the tokens after it",
        "compilable": "torch.compile captures the router as one graph",
        "deterministic": "a forward pass in training mode repeats bit for bit",
        "dropless": "every slot computes, whatever the load",
        "empty-batches": "an empty batch is routed",
        "exact-gradient": "the gradient of the weights is their true derivative as long as the choice stays the same",
        "exactly-k": "every token chooses `k` experts, including those that turn it away",
        "no-selection-bias": "the router has no selection bias, so a balancer that sets one cannot steer it",
        "no-host-sync": "a forward pass reads no tensor values, so it never waits for the device",
        "normalized": "the weights of a token sum to 1, or to the setting `scale`",
        "permutation-equivariant": "permuting the tokens permutes the routing",
        "replayable": "given experts get the weights they would have if the router had chosen them",
        "same-in-training": "training mode routes like evaluation mode",
        "token-ids": "the router asks for the ids of its tokens",
        "trainable": "the gradient of the weights reaches a parameter",
    },
    "task": {
        "every-token": "every token is scored once, so a model that looks one token back has the same metrics for any "
        "sequence length",
    },
    "topology": {
        "monotone": "adding bytes between any two GPUs never makes the exchange faster",
        "subadditive": "two exchanges at once take no longer than one after the other",
        "interchangeable": "permuting the GPUs of a node changes nothing",
    },
    "tracker": {
        "local": "logged metrics are in files of the run directory once the tracker is closed",
        "durable": "logged metrics are in files of the run directory before `log` returns",
        "exact-resume": "a resumed run leaves the same files as an uninterrupted one",
    },
}
