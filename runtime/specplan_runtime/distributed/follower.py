"""What the ranks that do not decide do: run the passes that they are told to run."""

from __future__ import annotations

import torch

from specplan_runtime.build import OwnAssembly
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.commands import Choose, Compact, Forward, Stop, decode
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
        decoder = assembly.decoders[command.decoder]
        if isinstance(command, Forward):
            decoder.forward(assembly.workspaces[command.phase], command.span, command.num_layers)
        elif isinstance(command, Compact):
            decoder.compact(command.row, command.start, command.path)
        else:
            _choose(assembly, decoder, command)


def _choose(assembly: OwnAssembly, decoder: Decoder, command: Choose) -> None:
    """Give the deciding rank this one's part of the logits; nothing where there is no head."""
    work = assembly.workspaces[command.phase]
    if not decoder.has_head:
        return
    if command.sampled:
        for _, logits in decoder.logits(work, command.rows, command.num_rows):
            del logits
    else:
        decoder.best(work, command.rows, command.num_rows, command.vocab_size)
