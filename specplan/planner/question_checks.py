"""Questions that make no sense: refused by option name."""

from __future__ import annotations

from specplan.arch import ModelArch
from specplan.arch_checks import MAX_BUDGET_BYTES, check_kernels
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import InputError, UnsupportedError
from specplan.knob import KNOBS, Knob
from specplan.plan import HeadsInput
from specplan.planner.question import Question
from specplan.speculation import MODEL_DRAFTERS
from specplan.speed.work import layer_work
from specplan.workload import Workload


def check_question(question: Question) -> None:
    """Refuse values outside their range, by option name.

    Raises:
        InputError: names the option.
    """
    workload = question.workload
    _check_knob(KNOBS["context"], workload.context)
    _check_knob(KNOBS["batch_size"], workload.batch_size)
    if question.alpha is not None and not 0 <= question.alpha <= 1:
        raise InputError(f"--alpha {question.alpha}: expected a probability from 0 to 1")
    if question.inputs.budget_bytes > MAX_BUDGET_BYTES:
        raise InputError(f"--budget {question.inputs.budget_bytes}: expected at most {MAX_BUDGET_BYTES} bytes")
    if not 0 < question.inputs.keep <= 1:
        raise InputError(f"--keep {question.inputs.keep}: expected a share above 0, at most 1")
    if question.num_speculative_tokens is not None:
        _check_knob(KNOBS["num_speculative_tokens"], question.num_speculative_tokens)
    _check_tree(question)
    _check_rates(question)
    if question.heads_share_output and workload.dtype not in FLOAT_BYTES:
        option = "--share-head" if question.shares_head else "--heads that end in the target's output head:"
        raise UnsupportedError(
            f"{option} needs floating weights: {workload.dtype} products cannot write into a given place"
        )
    _check_heads(question)
    for model in (question.inputs.target, question.inputs.draft):
        if model is not None:
            _check_extent(model.arch, workload)
            check_kernels(model.arch, question.dtype_of(model), model.reference)


def _check_tree(question: Question) -> None:
    """Nodes that there are, and layers that take trees."""
    tree, nodes = question.tree, question.num_draft_nodes
    if nodes is not None:
        _check_knob(KNOBS["num_draft_nodes"], nodes)
        if question.num_speculative_tokens is not None:
            raise InputError("--num-draft-nodes and --num-speculative-tokens contradict each other: a tree or a chain")
    if not question.asks_for_tree:
        return
    option = "--tree" if nodes is None or tree is not None else "--num-draft-nodes"
    rows = tree.num_draft_nodes if tree is not None else nodes or question.most_draft_nodes
    drafts = question.inputs.draft
    if question.inputs.transformers_version is not None and set(MODEL_DRAFTERS) & set(question.drafters):
        raise UnsupportedError(f"{option}: with transformers' forward models draft chains only")
    for model in (question.inputs.target, drafts):
        if model is not None and model.arch.windowed_layers(question.workload.context + rows + 1):
            raise UnsupportedError(
                f"{option}: windowed layers whose window is shorter than the context take chains only"
            )
    if drafts is not None and 0 not in question.space.draft_contexts:
        raise UnsupportedError(f"{option}: a draft model that does not see the whole context drafts chains only")
    if drafts is not None and "device" not in question.space.draft_devices:
        raise UnsupportedError(f"{option}: a draft model on the host drafts chains only")


def _check_rates(question: Question) -> None:
    """A profile that was named is used, and for one of the drafters."""
    if question.named_profile is None:
        return
    profile = question.named_profile
    if profile.drafter not in question.drafters:
        raise InputError(f"--acceptance {profile.name} is of {profile.drafter}: name it with --drafter")
    if question.alpha_of(profile.drafter) is not None:
        raise InputError("--alpha and --acceptance contradict each other: both say what is accepted")


def _check_heads(question: Question) -> None:
    """Proposals that lie deeper than the checkpoint has heads."""
    files, chain = question.inputs.head_files, question.num_speculative_tokens
    if not isinstance(files, HeadsInput):
        return
    tree = question.tree
    if tree is not None:
        depth, option = tree.pruned(question.num_draft_nodes or tree.num_draft_nodes).depth, "--tree"
    else:
        depth, option = chain or 0, "--num-speculative-tokens"
    if depth > files.num_heads and "medusa" in question.drafters:
        raise InputError(f"{option}: drafts {depth} tokens ahead, {files.reference} has {files.num_heads} heads")


def _check_knob(knob: Knob, value: int) -> None:
    if not knob.least <= value <= knob.limit:
        raise InputError(f"{knob.option} {value}: expected {knob.least} to {knob.limit}")


def _check_extent(arch: ModelArch, workload: Workload) -> None:
    """Refuse what 64-bit integers cannot add up: each field may be plausible and their product is not."""
    slots, batch, layers = workload.context + 128, workload.batch_size, arch.num_hidden_layers
    cache = 8 * layers * batch * arch.num_key_value_heads * arch.head_dim * slots
    scores = 1024 * batch * arch.num_attention_heads * (slots + arch.head_dim)
    work = layer_work(arch, layers, 1)
    experts = work.num_experts * work.expert_elements
    weights = 8 * (2 * arch.num_head_elements + work.matrix_elements + experts)
    rows = 1024 * batch * (arch.hidden_size + arch.intermediate_size + arch.qkv_size + arch.vocab_size)
    if cache + 8 * scores + weights + 8 * rows > MAX_BUDGET_BYTES:
        raise InputError(
            f"--context {workload.context} --batch-size {batch}: this model would need more than 2^60 bytes"
        )
