"""What the ranks that do not decide do: run the passes that they are told to run."""

from __future__ import annotations

import torch

from specplan_runtime.build import OwnAssembly
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.away import DRAFT, answer
from specplan_runtime.distributed.commands import Choose, Compact, Forward, Passes, RunHeads, Stop, decode
from specplan_runtime.distributed.ranks import Ranks


@torch.inference_mode()
def obey(assembly: OwnAssembly, ranks: Ranks) -> None:
    """Obey commands until one says stop.

    Raises:
        RankLost: another rank ended, or the next command did not come in time.
    """
    while True:
        code, numbers = ranks.hear()
        command = decode(code, numbers, assembly.topology)
        if isinstance(command, Stop):
            return
        if isinstance(command, RunHeads):
            assembly.run_heads()
            continue
        if isinstance(command, Passes):
            _run_all(assembly, ranks, command)
            continue
        if command.decoder >= len(assembly.decoders):
            continue  # a draft model on another rank
        decoder = assembly.decoders[command.decoder]
        if isinstance(command, Forward):
            decoder.forward(assembly.workspaces[command.phase], command.span, command.num_layers)
        elif isinstance(command, Compact):
            decoder.compact(command.row, command.start, command.path)
        else:
            _choose(assembly, ranks, decoder, command)


def _run_all(assembly: OwnAssembly, ranks: Ranks, command: Passes) -> None:
    """One pass after the other, each handed on to the next stage while the next one runs."""
    first = command.forwards[0]
    decoder, work = assembly.decoders[first.decoder], assembly.workspaces[first.phase]
    with decoder.working_ahead(work):
        for forward in command.forwards:
            decoder.forward(work, forward.span)
            if command.sampled is not None:
                rows = forward.span.num_rows
                _choose(assembly, ranks, decoder, Choose(first.decoder, first.phase, None, rows, None, command.sampled))


def _choose(assembly: OwnAssembly, ranks: Ranks, decoder: Decoder, command: Choose) -> None:
    """Give the deciding rank what it needs of the logits; nothing where there is no head."""
    work = assembly.workspaces[command.phase]
    if command.decoder == DRAFT and ranks.parallelism.draft_placement == "rank":
        assert assembly.layout.draft_probs is not None
        answer(ranks, decoder, work, command, assembly.layout.draft_probs)
    elif not decoder.has_head:
        return
    elif command.sampled:
        for _, logits in decoder.logits(work, command.rows, command.num_rows):
            del logits
    else:
        decoder.best(work, command.rows, command.num_rows, command.vocab_size)
