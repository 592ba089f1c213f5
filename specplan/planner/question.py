"""``Question``: what the planner is asked, and which values the search may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specplan.acceptance_profiles import ALL, AcceptanceProfile
from specplan.plan import HeadsInput, ModelInput, PlanInputs
from specplan.planner.ranks import Card
from specplan.speculation import MAX_NODES, TREE_DRAFTERS, DraftDevice, Drafter, Tree
from specplan.speed.step_times import StepTimeTable
from specplan.workload import Workload

#: Heads of published Medusa checkpoints, where none is given.
PUBLISHED_HEADS = 5

#: A tensor-parallel size, and the layers of each stage.
Split = tuple[int, tuple[int, ...]]

#: What decides between configurations that fit.
Prefer = Literal["fastest", "smallest"]


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The values that the search may take besides drafters, shapes and rows; empty for what the workload says.

    Attributes:
        precisions: weight and KV format of the target; the plain pair first.
        draft_kv_dtypes: KV formats of a draft model, the plain one first.
        batch_sizes: sequences decoded at once.
        draft_contexts: tokens that a draft model sees, 0 for all.
        draft_devices: where a draft model may live.
        num_exit_layers: layers that an early_exit drafter may run; none for eighths of the target.
        splits: tensor-parallel sizes with the layers of each stage; none on one device.
    """

    precisions: tuple[tuple[str, str], ...] = ()
    draft_kv_dtypes: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    draft_contexts: tuple[int, ...] = (0,)
    draft_devices: tuple[DraftDevice, ...] = ("device",)
    num_exit_layers: tuple[int, ...] = ()
    splits: tuple[Split, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that is fixed before the search.

    Attributes:
        inputs: models, device, budget, keep.
        workload: context, batch, precision.
        drafters: those that the search may use; ``none`` is always among them for comparison.
        alpha: acceptance rate given by the user, None to assume one.
        num_speculative_tokens: γ given by the user, None to search.
        max_speculative_tokens: largest γ that the search tries.
        must_speculate: plain decoding is a comparison only, not an answer.
        tree: of the drafters that can draft one, drafted as a whole; None to search the best one, or for chains.
        best_tree: drafters that can draft a tree do, and the best one is searched.
        num_draft_nodes: how many of a tree's first nodes are drafted, None for all of a given one, or to search.
        most_draft_nodes: nodes of the largest tree that is searched.
        shares_head: Medusa heads end in the target's output head.
        space: what the search may vary besides.
        profiles: acceptance profiles of these models, the most trusted first.
        named_profile: the one of them that the user named, None where they were found by model.
        category: the kind of question whose acceptance is used.
        assumed_lengths: turns and prompts of the workload were not given.
        prefer: ``fastest`` within the budget, or ``smallest`` that keeps ``inputs.keep`` of that speed.
        step_times: what ``specplan calibrate`` measured on the device.
        cards: the devices by rank where there are several; ``inputs.device`` is then the smallest of them.
    """

    inputs: PlanInputs
    workload: Workload
    drafters: tuple[Drafter, ...]
    alpha: float | None
    num_speculative_tokens: int | None
    max_speculative_tokens: int
    must_speculate: bool
    tree: Tree | None = None
    best_tree: bool = False
    num_draft_nodes: int | None = None
    most_draft_nodes: int = 64
    shares_head: bool = False
    space: SearchSpace = SearchSpace()
    profiles: tuple[AcceptanceProfile, ...] = ()
    named_profile: AcceptanceProfile | None = None
    category: str = ALL
    assumed_lengths: bool = False
    prefer: Prefer = "fastest"
    step_times: tuple[StepTimeTable, ...] = ()
    cards: tuple[Card, ...] = ()

    def drafts_trees(self, drafter: Drafter) -> bool:
        """Whether a drafter proposes trees: Medusa heads unless γ is given, the others when a tree is."""
        if drafter == "medusa":
            return self.num_speculative_tokens is None
        return drafter in TREE_DRAFTERS and self.asks_for_tree

    @property
    def asks_for_tree(self) -> bool:
        """Whether a tree, its number of nodes, or the best one was asked for."""
        return self.tree is not None or self.num_draft_nodes is not None or self.best_tree

    @property
    def heads_share_output(self) -> bool:
        """Whether Medusa heads end in the target's output head: as asked, or as their checkpoint has them."""
        files = self.inputs.head_files
        return files.shares_head if isinstance(files, HeadsInput) else self.shares_head

    def most_heads(self, drafter: Drafter) -> int:
        """Positions that a drafter can propose: of Medusa heads as many as their checkpoint has, or are published."""
        files = self.inputs.head_files
        if drafter != "medusa":
            return MAX_NODES
        return files.num_heads if isinstance(files, HeadsInput) else PUBLISHED_HEADS

    def longest_chain(self, drafter: Drafter) -> int:
        """The largest γ that is tried: the given one; of Medusa heads no more than there are."""
        if self.num_speculative_tokens is not None:
            return self.num_speculative_tokens
        return min(self.max_speculative_tokens, self.most_heads(drafter))

    def profile_of(self, drafter: Drafter, num_exit_layers: int) -> AcceptanceProfile | None:
        """The profile to use for a drafter, None without one."""
        layers = num_exit_layers or None
        found = (each for each in self.profiles if (each.drafter, each.num_exit_layers) == (drafter, layers))
        return next(found, None)

    def alpha_of(self, drafter: Drafter) -> float | None:
        """The user's rate where it applies: to the draft model when there is one, else to every drafter."""
        return self.alpha if drafter == "draft_model" or self.inputs.draft is None else None

    def dtype_of(self, model: ModelInput) -> str:
        """The weight format of the target or of the draft."""
        return self.workload.dtype if model is self.inputs.target else self.workload.draft_dtype
