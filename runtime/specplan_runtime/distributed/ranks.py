"""``Ranks``: this process among those that run a plan together."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from specplan.errors import InputError, SpecplanError
from specplan.parallelism import Parallelism
from specplan_runtime.distributed.commands import Command
from specplan_runtime.distributed.environment import LOST_CODE, RENDEZVOUS, environment_rank
from specplan_runtime.distributed.interrupts import Interrupts

#: A host that waits for a person to type has no other limit.
_PATIENT = datetime.timedelta(days=1)
#: The slowest rank may take this long to read its weights after the first one is ready.
_LOADING = datetime.timedelta(hours=2)


class RankLost(SpecplanError):
    """Another rank ended, or did not answer in time: what it said itself is the message that matters."""

    exit_code = LOST_CODE


class Ranks:
    """Groups, and what ranks do together.

    Args:
        parallelism: of the plan.
        cuda: data lives on a GPU each, the one of ``LOCAL_RANK``.
        timeout_s: a rank that does not take part in what the others do for so long ends the job.
        patient: commands may be as far apart as a person wants.

    Attributes:
        interrupts: that wait while the ranks compute together.

    Raises:
        InputError: there are not as many processes as the plan has ranks.
        RankLost: the others did not come.
    """

    def __init__(self, parallelism: Parallelism, cuda: bool, timeout_s: float, patient: bool) -> None:
        self.parallelism = parallelism
        self.rank, size = environment_rank()
        if size != parallelism.num_ranks:
            raise InputError(f"the plan is for {parallelism.num_ranks} ranks, {size} processes were started")
        self.timeout_s = timeout_s
        self.interrupts = Interrupts()
        timeout = datetime.timedelta(seconds=timeout_s)
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        with self._guarded("starting"):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                init_method=os.environ.get(RENDEZVOUS, "env://"),
                timeout=timeout,
                rank=self.rank,
                world_size=size,
            )
            self._control = dist.new_group(backend="gloo", timeout=_PATIENT if patient else timeout)
            self._slow = dist.new_group(backend="gloo", timeout=_LOADING)
            parts = parallelism.tensor_parallel
            stages = [list(range(first, first + parts)) for first in range(0, size, parts)]
            groups = [dist.new_group(ranks, timeout=timeout) for ranks in stages]
        self.stage = parallelism.stage_of(self.rank)
        self.part = self.rank % parts
        self.tensor_group = groups[self.stage]
        self._command = torch.zeros(0, dtype=torch.int64)
        self._postponed: list[Command] | None = None

    @property
    def decides(self) -> bool:
        """This rank holds prompts and tokens, and tells the others what to do."""
        return self.rank == self.parallelism.deciding_rank

    def reserve(self, num_integers: int) -> None:
        """Make room for commands of up to so many integers."""
        self._command = torch.zeros(num_integers, dtype=torch.int64)

    @property
    def busy(self) -> bool:
        """The others are in the middle of passes, and hear nothing."""
        return self._postponed is not None

    def postpone(self) -> None:
        """The others are busy: keep what they are told from now on, and interrupts, too."""
        self.interrupts.hold()
        self._postponed = []

    def catch_up(self) -> None:
        """Tell them now.

        Raises:
            KeyboardInterrupt: when it came meanwhile.
        """
        waiting, self._postponed = self._postponed or [], None
        for command in waiting:
            self.tell(command)
        self.interrupts.release()

    def tell(self, command: Command) -> None:
        """Send a command to all other ranks; numbers beyond the room for one follow by themselves."""
        if self._postponed is not None:
            self._postponed.append(command)
            return
        numbers = command.encode()
        room = len(self._command) - 2
        self._command.numpy()[: 2 + min(room, len(numbers))] = [command.code, len(numbers), *numbers[:room]]
        self._pass_on(self._command)
        if len(numbers) > room:
            self._pass_on(torch.tensor(numbers[room:]))

    def hear(self) -> tuple[int, list[int]]:
        """Code and numbers of the next command."""
        self._pass_on(self._command)
        code, length, *numbers = self._command.tolist()
        if length > len(numbers):
            rest = torch.empty(length - len(numbers), dtype=torch.int64)
            self._pass_on(rest)
            numbers += rest.tolist()
        return code, numbers[:length]

    def _pass_on(self, numbers: torch.Tensor) -> None:
        """From the deciding rank to all others, in place."""
        with self._guarded("a command"):
            dist.broadcast(numbers, self.parallelism.deciding_rank, group=self._control)

    def add_up(self, x: torch.Tensor) -> None:
        """Sum over the tensor ranks, in place; of a transposed product the transposed."""
        if self.parallelism.tensor_parallel > 1:
            with self._guarded("a sum"):
                dist.all_reduce(x if x.is_contiguous() else x.t(), group=self.tensor_group)

    def gather_all(self, own: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """Every tensor rank's ``own`` in ``all_of_them`` [t_p, …], on all of them."""
        with self._guarded("the best tokens"):
            dist.all_gather(list(all_of_them), own, group=self.tensor_group)

    def gather(self, own: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """Every tensor rank's ``own`` in ``all_of_them`` [t_p, …], on the deciding rank."""
        leader = self.parallelism.deciding_rank
        with self._guarded("logits"):
            places = list(all_of_them) if self.decides else None
            dist.gather(own, places, dst=leader, group=self.tensor_group)

    def share(self, x: torch.Tensor) -> None:
        """The deciding rank's values on all tensor ranks of its stage, in place."""
        with self._guarded("features"):
            dist.broadcast(x, self.parallelism.deciding_rank, group=self.tensor_group)

    def send(self, x: torch.Tensor, rank: int) -> None:
        """To another rank."""
        with self._guarded(f"rank {rank}"):
            dist.send(x, rank)

    def begin_sending(self, x: torch.Tensor, rank: int) -> Callable[[], None]:
        """To another rank, which takes it when it is ready; returns what waits for that."""
        with self._guarded(f"rank {rank}"):
            under_way = dist.isend(x, rank)

        def wait() -> None:
            with self._guarded(f"rank {rank}"):
                assert under_way is not None
                under_way.wait()

        return wait

    def receive(self, x: torch.Tensor, rank: int) -> None:
        """From another rank, in place."""
        with self._guarded(f"rank {rank}"):
            dist.recv(x, rank)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that may fail on any rank: all go on, or none does, and the first that failed says why."""
        problem: SpecplanError | None = None
        try:
            yield
        except SpecplanError as error:
            problem = error
        failed = [bool(flag) for (flag,) in self.exchange([int(problem is not None)])]
        if problem is not None and failed.index(True) == self.rank:
            raise problem
        if any(failed):
            raise RankLost(f"rank {failed.index(True)} could not start")

    def exchange(self, own: list[int]) -> list[list[int]]:
        """As many integers of every rank, on all ranks."""
        everyone = torch.empty(self.parallelism.num_ranks, len(own), dtype=torch.int64)
        with self._guarded("loading"):
            dist.all_gather(list(everyone), torch.tensor(own), group=self._slow)
        numbers: list[list[int]] = everyone.tolist()
        return numbers

    def close(self) -> None:
        """Leave."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Name what was waited for when the others are gone."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise RankLost(f"rank {self.rank} lost the other ranks while it waited for {what}: {reason}") from error
