"""How many tokens to draft next, from what steps took and what was accepted: never more than planned."""

from __future__ import annotations

from collections.abc import Sequence

#: Steps that the running means look back on.
_STEPS_TIMED, _STEPS_JUDGED = 10, 40
#: What is believed of acceptance before anything was judged, worth as many answers.
_FIRST_RATE, _FIRST_WEIGHT, _POOLED_WEIGHT = 0.7, 4, 8
#: Share of the time that probing may cost while speculation is off.
_PROBE_SHARE = 0.02
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 1024
#: Steps between looks at other lengths while speculation is on: plain decoding and the planned length in turn.
_LOOK_EVERY = 64
#: Steps of a probe: the first pays for the draft's catching up, so it is not timed.
_PROBE_STEPS = 3
#: A change must gain this much: running means are noisy.
_LEAST_GAIN = 1.01


class _Rate:
    """A running mean of yes and no, or of shares of yes."""

    def __init__(self, mean: float, count: int) -> None:
        self.mean, self.count = mean, count

    def add(self, hit: float) -> None:
        """One more answer."""
        self.count = min(_STEPS_JUDGED, self.count + 1)
        self.mean += (hit - self.mean) / self.count

    def leaning_on(self, pooled: float) -> float:
        """The mean, drawn to that of all positions while there are few answers."""
        return (self.count * self.mean + _POOLED_WEIGHT * pooled) / (self.count + _POOLED_WEIGHT)


class AdaptiveLimit:
    """Chooses the tokens drafted per step so that expected tokens per second are highest.

    The output does not depend on it: whatever is proposed is verified. Expected tokens are 1 plus the sum of the shares
    of rows that accept each position; expected seconds are linear in the drafted tokens, fitted to what steps took.

    Args:
        most: tokens drafted per step in the plan.
        depth: of a tree, of which only all or nothing can be drafted; None on a chain.
    """

    def __init__(self, most: int, depth: int | None = None) -> None:
        self._most = most
        self._choices = tuple(range(most + 1)) if depth is None else (0, most)
        self._positions = most if depth is None else depth
        self._seconds: dict[int, float] = {}
        #: Of the rows, those that draft anything in a step in which one does.
        self._drafting = _Rate(1.0, 0)
        self._any_rate = _Rate(_FIRST_RATE, _FIRST_WEIGHT)
        self._rates = [_Rate(0.0, 0) for _ in range(self._positions)]
        self._best = most
        self._steps = 0
        self._pause = _FIRST_PAUSE
        self._next_look = 2
        self._looking = 0
        self._looked_at = most

    def next_limit(self) -> int:
        """Tokens to draft in the next step at most."""
        return self._looked_at if self._looking else self._best

    def observe(self, seconds: float, num_drafted: Sequence[int], num_accepted: Sequence[int]) -> None:
        """Learn from a step.

        Args:
            seconds: that it took.
            num_drafted: proposals of each active row.
            num_accepted: of them.
        """
        drafted = max(num_drafted, default=0)
        first_of_probe = self._looking == _PROBE_STEPS and self._looked_at > 0
        if not first_of_probe:
            known = self._seconds.get(drafted)
            self._seconds[drafted] = seconds if known is None else known + (seconds - known) / _STEPS_TIMED
        self._learn_rates(num_drafted, num_accepted)
        if drafted:
            self._drafting.add(sum(map(bool, num_drafted)) / len(num_drafted))
        self._steps += 1
        if self._looking:
            self._looking -= 1
            if not self._looking:
                self._decide()
        elif self._steps >= self._next_look:
            self._look()
        elif self._best and self._steps % 8 == 0:
            self._decide()

    def _learn_rates(self, num_drafted: Sequence[int], num_accepted: Sequence[int]) -> None:
        """Running means of how often each position is accepted, given that the one before it was."""
        for drafted, accepted in zip(num_drafted, num_accepted, strict=True):
            for position in range(min(drafted, accepted + 1, self._positions)):
                for rate in (self._any_rate, self._rates[position]):
                    rate.add(position < accepted)

    def _look(self) -> None:
        """Try what is not in use: plain decoding or the planned length; a few tokens while speculation is off."""
        if self._best:
            self._looked_at = self._most if self._looked_at == 0 and self._best < self._most else 0
        else:
            self._looked_at = min(self._most, 4) if len(self._choices) > 2 else self._most
        self._looking = 1 if self._looked_at == 0 else _PROBE_STEPS

    def _decide(self) -> None:
        before = self._best
        tokens = self._expected_tokens()
        values = {c: tokens[min(c, self._positions)] / self._expected_seconds(c) for c in self._choices}
        best = max(values, key=lambda choice: (values[choice], -choice))
        if values[best] > values[self._best] * _LEAST_GAIN or (best == 0 and values[0] >= values[self._best]):
            self._best = best
        if self._best:
            self._pause = _FIRST_PAUSE
            self._next_look = self._steps + _LOOK_EVERY
        else:
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause) if before == 0 else self._pause
            extra = _PROBE_STEPS * max(0.0, self._expected_seconds(self._looked_at) / self._expected_seconds(0) - 1)
            self._next_look = self._steps + max(self._pause, int(extra / _PROBE_SHARE))

    def _expected_tokens(self) -> list[float]:
        """Tokens that a row emits in the mean when 0, 1, 2, … positions are drafted: not every row finds any."""
        tokens, reached = [1.0], self._drafting.mean
        for rate in self._rates:
            reached *= rate.leaning_on(self._any_rate.mean)
            tokens.append(tokens[-1] + reached)
        return tokens

    def _expected_seconds(self, drafted: int) -> float:
        """What a step took; between and beyond known lengths a line through them, never falling."""
        if drafted in self._seconds:
            return self._seconds[drafted]
        lengths = sorted(self._seconds)
        if len(lengths) < 2:
            return self._seconds[lengths[0]]
        low = max((length for length in lengths if length < drafted), default=lengths[0])
        high = min((length for length in lengths if length > drafted), default=lengths[-1])
        if low == high:
            low, high = (lengths[-2], lengths[-1]) if drafted > lengths[-1] else (lengths[0], lengths[1])
        slope = (self._seconds[high] - self._seconds[low]) / (high - low)
        return max(1e-9, self._seconds[low] + max(0.0, slope) * (drafted - low))
