"""``Speculation``: who proposes tokens, how many, and the knobs that size the runtime's workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Drafter = Literal["none", "ngram", "draft_model", "early_exit", "medusa", "eagle3", "mtp"]
#: In the order in which they are searched; the last three need heads and are asked for by name.
DRAFTERS: tuple[Drafter, ...] = ("none", "ngram", "draft_model", "early_exit", "medusa", "eagle3", "mtp")
HEAD_DRAFTERS: tuple[Drafter, ...] = ("medusa", "eagle3", "mtp")
#: A model drafts them, token by token or depth by depth.
MODEL_DRAFTERS: tuple[Drafter, ...] = ("draft_model", "early_exit")
#: What can draft a tree.
TREE_DRAFTERS: tuple[Drafter, ...] = (*MODEL_DRAFTERS, *HEAD_DRAFTERS)

#: Where a draft model lives: beside the target, or in the host's memory.
DraftDevice = Literal["device", "host"]

#: Nodes that a tree may have.
MAX_NODES = 1024

#: A path from the root: element i is the rank of the token among the proposals for depth i + 1.
Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """One proposal after the other.

    Attributes:
        num_speculative_tokens: γ, drafted per step, bonus token excluded. 0 is plain decoding.
    """

    num_speculative_tokens: int

    @property
    def num_draft_nodes(self) -> int:
        """Drafted tokens per step, root excluded."""
        return self.num_speculative_tokens

    @property
    def num_verify_tokens(self) -> int:
        """Rows per sequence of the target's verify pass, root included."""
        return self.num_speculative_tokens + 1

    @property
    def depth(self) -> int:
        """Tokens of the longest path."""
        return self.num_speculative_tokens

    @property
    def topk(self) -> int:
        """Proposals for one position."""
        return 1


@dataclass(frozen=True, slots=True)
class Tree:
    """Proposals that share prefixes, verified together.

    Attributes:
        nodes: the path of every node, root excluded, a parent before its children; the most useful first, so that
            the first n of them are a tree again.
    """

    nodes: tuple[Path, ...]

    @property
    def num_draft_nodes(self) -> int:
        """Drafted tokens per step, root excluded."""
        return len(self.nodes)

    @property
    def num_verify_tokens(self) -> int:
        """Rows per sequence of the target's verify pass, root included."""
        return len(self.nodes) + 1

    @property
    def depth(self) -> int:
        """Tokens of the longest path."""
        return max((len(path) for path in self.nodes), default=0)

    @property
    def topk(self) -> int:
        """The most proposals that one position needs."""
        return max((path[-1] + 1 for path in self.nodes), default=0)

    @property
    def rows(self) -> tuple[Path, ...]:
        """Paths in the order of the verify pass's rows, the root's empty path first: by depth, then as given."""
        return ((), *sorted(self.nodes, key=len))

    @property
    def parents(self) -> tuple[int, ...]:
        """For each row but the root's, the row of its parent."""
        rows = {path: row for row, path in enumerate(self.rows)}
        return tuple(rows[path[:-1]] for path in self.rows[1:])

    @property
    def inner(self) -> Tree:
        """The nodes that have children: those that a drafting model takes in itself."""
        parents = {path[:-1] for path in self.nodes}
        return Tree(tuple(path for path in self.nodes if path in parents))

    def pruned(self, num_draft_nodes: int) -> Tree:
        """The tree of the first nodes."""
        return Tree(self.nodes[:num_draft_nodes])


@dataclass(frozen=True, slots=True)
class Speculation:
    """A point of the search space.

    Attributes:
        drafter: who proposes.
        shape: how proposals are arranged.
        num_exit_layers: layers of the target that an early_exit drafter runs; 0 for other drafters.
        prefill_chunk: prompt tokens per prefill pass.
        logits_rows: rows whose logits exist at one time; at least 2.
        draft_context: the last tokens that a draft model sees, and has cache slots for; 0 for all of them.
        draft_device: where a draft model lives.
    """

    drafter: Drafter
    shape: Chain | Tree
    num_exit_layers: int
    prefill_chunk: int
    logits_rows: int
    draft_context: int = 0
    draft_device: DraftDevice = "device"

    @property
    def num_draft_nodes(self) -> int:
        """Tokens drafted per step and sequence: γ of a chain."""
        return self.shape.num_draft_nodes

    @property
    def drafted_name(self) -> str:
        """What the number of drafted tokens is called: by the shape."""
        return "num_draft_nodes" if isinstance(self.shape, Tree) else "num_speculative_tokens"

    def describe(self) -> str:
        """For people: ``draft_model, γ 4``."""
        if self.drafter == "none":
            return "plain decoding"
        where = f" at layer {self.num_exit_layers}" if self.drafter == "early_exit" else ""
        where += " on the host" if self.draft_device == "host" else ""
        where += f" over {self.draft_context} tokens" if self.draft_context else ""
        if isinstance(self.shape, Tree):
            nodes = "node" if self.num_draft_nodes == 1 else "nodes"
            return f"{self.drafter}{where}, {self.num_draft_nodes} {nodes}, depth {self.shape.depth}"
        return f"{self.drafter}{where}, γ {self.num_draft_nodes}"
