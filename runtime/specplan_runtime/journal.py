"""Results of a batch job on disk as they finish, so that a job that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from specplan.atomic import write_atomically
from specplan.errors import EnvironmentProblem, InputError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One finished prompt.

    Attributes:
        index: its number in the file of prompts, from 0.
        text: the answer.
        num_tokens: that were generated.
        finish_reason: ``stop`` or ``length``.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: str | None


def result_line(result: Result) -> str:
    """One JSON object on one line."""
    return json.dumps(asdict(result), ensure_ascii=False)


def job_id(plan_sha256: str, prompts: Sequence[str], settings: object) -> str:
    """What makes two jobs the same: the plan, the prompts and how tokens are chosen."""
    content = json.dumps([plan_sha256, list(prompts), repr(settings)], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class Journal:
    """Finished prompts of one job, appended one by one beside the file that will hold all of them in order.

    A hidden file keeps which job the results are of: killed on its way out, a job is not done again.

    Args:
        output: the file of all results; the journal is beside it, with ``.part`` added.
        job: of ``job_id``.
        num_prompts: of the job.

    Raises:
        InputError: the journal belongs to another job, or is damaged.
        EnvironmentProblem: it cannot be read or written.
    """

    def __init__(self, output: Path, job: str, num_prompts: int) -> None:
        self._output, self._num_prompts, self._job = output, num_prompts, job
        self.path = output.with_name(output.name + ".part")
        self._mark = output.with_name(f".{output.name}.done")
        self.results: dict[int, Result] = {}
        try:
            if not self.path.exists() and self._is_done():
                write_atomically(self.path, self._header().encode() + b"\n" + self._output.read_bytes())
            self._file = self._open(job)
        except OSError as error:
            raise EnvironmentProblem(f"cannot write {self.path}: {error.strerror or error}") from None

    def _open(self, job: str) -> IO[bytes]:
        """Read what is there, cut off a line that was not written to its end, and go on behind it."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if len(lines) == 1 and "job" in self._json(lines[0], 1):  # of whatever job: nothing was finished
            lines, whole = [], b""
        if lines:
            self._check_header(lines[0], job)
            for number, line in enumerate(lines[1:], 2):
                result = self._read(line, number)
                self.results[result.index] = result
        file = self.path.open("r+b" if content else "wb")
        file.truncate(len(whole))
        file.seek(len(whole))
        if not lines:  # nothing, or a header that was not written to its end
            self._append(file, self._header())
        return file

    def _header(self) -> str:
        return json.dumps({"version": _VERSION, "job": self._job})

    def _is_done(self) -> bool:
        """Whether the output is what this very job wrote."""
        if not self._mark.is_file() or not self._output.is_file():
            return False
        return self._mark.read_bytes() == self._done_mark(self._output.read_bytes())

    def _done_mark(self, output: bytes) -> bytes:
        data = {"version": _VERSION, "job": self._job, "sha256": hashlib.sha256(output).hexdigest()}
        return json.dumps(data).encode() + b"\n"

    def _check_header(self, line: bytes, job: str) -> None:
        header = self._json(line, 1)
        if header.get("version") != _VERSION or header.get("job") != job:
            raise InputError(
                f"{self.path}: is of a job with another plan, other prompts or settings: remove it to start over"
            )

    def _read(self, line: bytes, number: int) -> Result:
        data = self._json(line, number)
        try:
            result = Result(**data)
        except TypeError:
            raise InputError(f"{self.path}:{number}: not a result") from None
        index, text = result.index, result.text
        if not isinstance(index, int) or not 0 <= index < self._num_prompts or not isinstance(text, str):
            raise InputError(f"{self.path}:{number}: not a result of this job")
        return result

    def _json(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise InputError(f"{self.path}:{number}: not a line of a journal")
        return data

    def add(self, result: Result) -> None:
        """Keep a finished prompt: it is on disk when this returns.

        Raises:
            EnvironmentProblem: the disk is full or gone.
        """
        try:
            self._append(self._file, result_line(result))
        except OSError as error:
            raise EnvironmentProblem(f"cannot write {self.path}: {error.strerror or error}") from None
        self.results[result.index] = result

    @staticmethod
    def _append(file: IO[bytes], line: str) -> None:
        file.write(line.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())

    def finish(self) -> None:
        """Write all results in the order of the prompts, note whose they are, and remove the journal.

        Raises:
            EnvironmentProblem: it cannot be written; the journal stays.
        """
        lines = [result_line(self.results[index]) for index in range(self._num_prompts)]
        content = ("\n".join(lines) + "\n").encode()
        write_atomically(self._output, content)
        if self._output.is_file():  # not a pipe
            write_atomically(self._mark, self._done_mark(content))
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the journal for a later run; what a full disk did not take was an error before."""
        with contextlib.suppress(OSError):
            self._file.close()
