"""Latent attention in the buffers that its formula counts, against transformers' attention, which expands the cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from specplan.devices.bundled import device_profile
from specplan.formulas.bind import evaluate
from specplan.formulas.memory import MemoryModel
from specplan.heads import MtpLayer
from specplan.models.config import read_config
from specplan.profiles import read_profile
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation
from specplan.workload import Workload
from specplan_runtime.arena import Arena
from tests.conftest import random_model
from tests.family_configs import TINY

SIZE = torch.float64
Rotary = tuple[torch.Tensor, torch.Tensor]


class LatentPass:
    """One pass of rows of several sequences in the buffers of the formula, over compressed rows in a cache."""

    def __init__(self, attention: Any, arena: Arena, num_rows: int, batch_size: int, slots: int) -> None:
        self.attention = attention
        self.rows, self.batch_size, self.slots = num_rows, batch_size, slots
        self.rank, self.rotary = attention.kv_lora_rank, attention.qk_rope_head_dim
        self.heads, self.plain = attention.num_heads, attention.qk_nope_head_dim
        self.query_rank = attention.q_lora_rank or 0
        fed = max(num_rows, 2)

        def take(*shape: int) -> torch.Tensor:
            return arena.take("scratch", shape, SIZE)

        self.compressed = take(fed * (self.query_rank + self.rank + self.rotary))
        self.queries = take(fed * self.heads * (self.plain + self.rotary))
        self.turned = take(fed * (self.heads + 1) * self.rotary // 2)
        self.packed = take(num_rows, self.heads, self.rank + self.rotary)
        self.scores = take(num_rows * self.heads * slots)

    def compress(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Rows [T, r_k + d_r] for the cache; the queries are in their buffer."""
        attention, T = self.attention, self.rows
        split = T * self.query_rank
        rows = self.compressed[split : split + T * (self.rank + self.rotary)].view(T, -1)
        queries = self.queries[: T * self.heads * (self.plain + self.rotary)].view(T, -1)
        if self.query_rank:
            low = self.compressed[:split].view(T, -1)
            torch.mm(x, attention.q_a_proj.weight.T, out=low)
            low.copy_(attention.q_a_layernorm(low))
            torch.mm(low, attention.q_b_proj.weight.T, out=queries)
        else:
            torch.mm(x, attention.q_proj.weight.T, out=queries)
        torch.mm(x, attention.kv_a_proj_with_mqa.weight.T, out=rows)
        rows[:, : self.rank].copy_(attention.kv_a_layernorm(rows[:, : self.rank]))
        by_head = queries.view(T, self.heads, -1)
        self._rotate(by_head[..., self.plain :], rotary, 0)
        self._rotate(rows[:, None, self.rank :], rotary, T * self.heads * self.rotary // 2)
        return rows

    def _rotate(self, x: torch.Tensor, rotary: Rotary, start: int) -> None:
        """In place; one half of the elements is kept meanwhile."""
        half = self.rotary // 2
        cos, sin = (table[:, None, :half] for table in rotary)
        first, second = x[..., 0::2], x[..., 1::2]
        kept = self.turned[start : start + first.numel()].view(first.shape).copy_(first)
        first.mul_(cos).addcmul_(second, sin, value=-1)
        second.mul_(cos).addcmul_(kept, sin)

    def attend(self, cache: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Heads' outputs [T, H, d_v] over cache [b, S, r_k + d_r]; mask [b, q, S] is True where a row sees a slot."""
        expand = self.attention.kv_b_proj.weight.view(self.heads, -1, self.rank)
        keys, values = expand[:, : self.plain], expand[:, self.plain :]
        queries = self.queries[: self.rows * self.heads * (self.plain + self.rotary)].view(self.rows, self.heads, -1)
        absorbed = self.packed[..., : self.rank]
        torch.bmm(queries[..., : self.plain].transpose(0, 1), keys, out=absorbed.transpose(0, 1))
        self.packed[..., self.rank :].copy_(queries[..., self.plain :])
        each = self.rows // self.batch_size
        for row, cached in enumerate(cache):
            packed = self.packed[row * each : (row + 1) * each].view(each * self.heads, -1)
            scores = self.scores[: each * self.heads * self.slots].view(-1, self.slots)
            torch.mm(packed, cached.T, out=scores)
            scores.mul_(self.attention.scaling)
            scores.view(each, self.heads, -1).masked_fill_(~mask[row, :, None], -torch.inf)
            torch.softmax(scores, -1, out=scores)
            torch.mm(scores, cached[:, : self.rank], out=packed[:, : self.rank])
        return torch.bmm(absorbed.transpose(0, 1), values.transpose(1, 2)).transpose(0, 1)


@pytest.mark.parametrize("query_rank", [10, None])
@pytest.mark.parametrize(("past", "each", "batch_size"), [(0, 9, 1), (7, 1, 1), (6, 3, 2)])
def test_absorbed_attention_needs_these_buffers(query_rank: int | None, past: int, each: int, batch_size: int) -> None:
    torch.manual_seed(0)
    config = TINY["deepseek_v3"] | {"q_lora_rank": query_rank}
    model = random_model(config).to(SIZE).eval()
    attention, slots = model.model.layers[0].self_attn, past + each
    x = torch.randn(batch_size, slots, model.config.hidden_size, dtype=SIZE)
    positions = torch.arange(slots)[None]
    cos, sin = model.model.rotary_emb(x, positions)
    seen = torch.ones(slots, slots, dtype=torch.bool).tril()
    with torch.no_grad():
        expected, _ = attention(x, (cos, sin), seen[None, None].expand(batch_size, 1, -1, -1))

        def rows_of(first: int, last: int) -> tuple[LatentPass, torch.Tensor, Arena]:
            num_rows = batch_size * (last - first)
            arena = Arena(torch.zeros(1 << 22, dtype=torch.uint8))
            made = LatentPass(attention, arena, num_rows, batch_size, slots)
            tables = [table[0, first:last].repeat(batch_size, 1) for table in (cos, sin)]
            found = made.compress(x[:, first:last].reshape(num_rows, -1), (tables[0], tables[1]))
            return made, found.view(batch_size, last - first, -1), arena

        before = [rows_of(0, past)[1]] if past else []
        step, written, arena = rows_of(past, slots)
        cache = torch.cat([*before, written], 1)
        heads = step.attend(cache, seen[past:].expand(batch_size, -1, -1))
        found = attention.o_proj(heads.reshape(batch_size * each, -1)).view(batch_size, each, -1)
    torch.testing.assert_close(found, expected[:, past:], rtol=1e-9, atol=1e-12)
    arch = read_config(config, "deepseek-v3")
    assert arch.latent is not None
    values = {
        "T": batch_size * each, "b": batch_size, "S_x": slots, "H": arch.num_attention_heads, "L_m": 1, "s": 8,
        "d_n": arch.latent.qk_nope_head_dim, "d_r": arch.latent.qk_rope_head_dim, "r_k": arch.latent.kv_lora_rank,
        "r_q": arch.latent.q_lora_rank, "f_q": int(arch.latent.q_lora_rank > 0),
        "f_h": 0, "f_k": 0, "f_o": 0, "k_s": 0, "x_s": 0, "m_r": 2,
    }  # fmt: skip
    assert evaluate("latent", values) == arena.bytes_by_item["scratch"]


def scenario(context: int, chunk: int, drafter: str = "none") -> Scenario:
    arch = read_config(read_profile("models", "deepseek-v3")["config"], "deepseek-v3")
    heads = MtpLayer(1) if drafter == "mtp" else None
    speculation = Speculation(drafter, Chain(int(heads is not None)), 0, chunk, 2)  # type: ignore[arg-type]
    workload = Workload(context, 1, "stored", "bfloat16", "stored", "bfloat16")
    return Scenario(arch, None, device_profile("b200"), workload, speculation, heads)


def test_scores_over_compressed_rows_bind_the_peak_of_a_long_prefill() -> None:
    """128 heads: queries and absorbed queries of 512 rows, and their scores over 4096 slots, by hand."""
    items = MemoryModel(scenario(4096, 512)).ledger().by_name()
    scratch = items["prefill_target.scratch"]
    rows = 512 * (1536 + 576) + 512 * 128 * 192 + 512 * 129 * 32 + 512 * 128 * 576
    assert scratch.bytes == 2 * (rows + 512 * 128 * 4097)
    assert scratch.source == "modelled"


def test_quantized_rows_and_other_caches_take_more() -> None:
    plain = scenario(1024, 64)
    base = MemoryModel(plain).ledger().by_name()["prefill_target.scratch"].bytes
    for kv_dtype in ("float32", "fp8_e4m3", "int8"):
        other = dataclasses.replace(plain, workload=dataclasses.replace(plain.workload, kv_dtype=kv_dtype))
        assert MemoryModel(other).ledger().by_name()["prefill_target.scratch"].bytes > base


def test_heads_read_an_embedding_beside_a_hidden_state() -> None:
    items = MemoryModel(scenario(256, 32, "mtp")).ledger().by_name()
    assert items["prefill_draft.joined"].bytes == 2 * 32 * 7168 * 2
    assert {item.source for item in items.values() if item.phase in ("prefill_draft", "draft")} == {"modelled"}
    assert "prefill_target.joined" not in items


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "jamba-v0.1", "bamba-9b", "falcon-h1-0.5b"])
def test_recurrent_layers_have_scratch(name: str) -> None:
    arch = read_config(read_profile("models", name)["config"], name)
    asked = dataclasses.replace(scenario(256, 64), target=arch)
    workload = dataclasses.replace(asked.workload, dtype="bfloat16", draft_dtype="bfloat16")
    model = MemoryModel(dataclasses.replace(asked, workload=workload))
    (term,) = (term for term in model.terms if term.name == "prefill_target.scratch")
    recurrent = evaluate("recurrent", term.values)
    mixed = 64 * 2 * arch.hidden_size * 2
    assert mixed < recurrent <= term.bytes
