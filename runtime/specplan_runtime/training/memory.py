"""What training takes, and how many rows of logits a budget leaves room for."""

from __future__ import annotations

from specplan.arch import ModelArch
from specplan.errors import BudgetError
from specplan.heads import NUM_FEATURES, head_layer
from specplan_runtime.training.eagle_model import trained_head
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.text import SHARD_ANSWERS

_FLOAT = 4
_FEATURE = 2
#: Around a question: what a chat template adds, system prompt included.
_TEMPLATE_TOKENS = 64
_TILES = (256, 128, 64, 32, 16)


def training_items(arch: ModelArch, options: TrainOptions, tile_rows: int, longest: int = 0) -> dict[str, int]:
    """Bytes by item while heads are trained, float32.

    The target is no longer there, only its output head. A shard is there twice while it is read, and its states once
    more while rows are chosen; five tensors of a head's blocks stay for its gradient.
    """
    if options.kind == "eagle3":
        return _eagle_items(arch, options, tile_rows, longest)
    h, vocab = arch.hidden_size, arch.vocab_size
    tokens = SHARD_ANSWERS * options.new_tokens
    looked_at = min(vocab, max(tokens, options.loss_tokens)) if options.loss_tokens else vocab
    return {
        "output_head": _FLOAT * vocab * h + (_FLOAT * looked_at * h if looked_at < vocab else 0),
        "heads_gradients_moments": 5 * _FLOAT * options.num_heads * options.num_layers * (h * h + h),
        "logits": (_FLOAT + 1) * tile_rows * vocab,  # and a comparison of every entry, for ranks
        "shard": shard_bytes(arch, options),
        "batch": _FLOAT * options.batch_tokens * h * (3 + 5 * options.num_layers),
    }


def shard_bytes(arch: ModelArch, options: TrainOptions, longest: int = 0) -> int:
    """A shard's states and tokens with its labels, twice: as read or recorded, and as used."""
    tokens = SHARD_ANSWERS * options.new_tokens
    if options.kind == "eagle3":
        read = SHARD_ANSWERS * _text_tokens(options, longest)
        return 2 * (tokens * (_FLOAT * arch.hidden_size + 8) + read * (_FEATURE * NUM_FEATURES * arch.hidden_size + 8))
    return 2 * tokens * (_FLOAT * arch.hidden_size + 8 * (1 + options.num_heads))


def tile_rows_within(
    arch: ModelArch, options: TrainOptions, budget_bytes: int, process_bytes: int, longest: int = 0
) -> int:
    """Rows of logits at one time: the most that fit.

    Args:
        arch: of the target.
        options: of the training.
        budget_bytes: that the process may use.
        process_bytes: that it takes without any tensor.
        longest: tokens of the longest prompt and answer together, where they are known.

    Raises:
        BudgetError: names the largest item.
    """
    for rows in _TILES:
        items = training_items(arch, options, rows, longest)
        if sum(items.values()) + process_bytes <= budget_bytes:
            return rows
    name, size = max(items.items(), key=lambda item: item[1])
    needed = sum(items.values()) + process_bytes
    raise BudgetError(
        f"training needs {needed} bytes, the budget is {budget_bytes}: the largest item is {name} with {size} bytes"
    )


def _text_tokens(options: TrainOptions, longest: int) -> int:
    """A question with what stands around it, and its answer; as long as the longest where that is more."""
    return max(longest, options.new_tokens + options.question_tokens + _TEMPLATE_TOKENS)


def _eagle_items(arch: ModelArch, options: TrainOptions, tile_rows: int, longest: int) -> dict[str, int]:
    """The same for an EAGLE-3 head: what autograd keeps of a text in every step counts most."""
    head = trained_head(arch, options)
    layer = head_layer(head, arch)
    h, inner, known = arch.hidden_size, layer.intermediate_size, head.draft_vocab_size
    n = _text_tokens(options, longest)
    width = layer.num_attention_heads * layer.head_dim
    matrices = 3 * h * h + 2 * h * layer.qkv_size + width * h + 3 * inner * h + 4 * h
    kept = n * (24 * h + 6 * (layer.qkv_size + width) + 6 * inner)
    scores = 5 * layer.num_attention_heads * n * (n + options.num_heads)
    return {
        "embedding": _FLOAT * arch.vocab_size * h,
        "target_output_rows": _FLOAT * known * h,
        "head_gradient_moments": 5 * _FLOAT * matrices,
        "logits": 3 * _FLOAT * tile_rows * known,
        "shard": shard_bytes(arch, options, longest),
        "text": _FLOAT * (options.num_heads * (kept + scores) + 4 * NUM_FEATURES * n * h),
    }
