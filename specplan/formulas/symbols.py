"""Every symbol of the formulas, once, with its assumptions and meaning.

A symbol made elsewhere under the same name but other assumptions would be another symbol, and substituting it
would silently do nothing: import from here.
"""

from __future__ import annotations

from specplan.formulas.symbol_table import SymbolTable

TABLE = SymbolTable()
MEANINGS = TABLE.meanings
_count, _natural = TABLE.count, TABLE.natural

L = _count("L", "num_hidden_layers")
h = _count("h", "hidden_size")
V = _count("V", "vocab_size")
t = _natural("t", "1 when the output head is tied to the embedding")
n_n = _count("n_n", "norms over h in a layer")
n_b = _natural("n_b", "1 when norms have biases (layer norms)")

L_a = _natural("L_a", "layers with attention, windowed ones included")
H = _count("H", "num_attention_heads")
H_k = _count("H_k", "num_key_value_heads")
d = _count("d", "head_dim")
d_o = _count("d_o", "rotary_dim: rotated elements of a head")
n_o = _count("n_o", "sets of rotary frequencies")
f_t = _natural("f_t", "1 when embedded tokens are multiplied by a constant")
g_q = _natural("g_q", "1 when queries carry a gate of the attention's output")
b_q = _natural("b_q", "1 when queries, keys and values have biases")
b_o = _natural("b_o", "1 when the attention output has a bias")
a_s = _natural("a_s", "1 when heads have attention sinks")
q_h = _natural("q_h", "1 when queries and keys are normalized per head")
q_f = _natural("q_f", "1 when queries and keys are normalized over their full width")

L_m = _natural("L_m", "layers with latent attention")
r_q = _natural("r_q", "q_lora_rank, 0 when queries are projected directly")
f_q = _natural("f_q", "1 when queries are compressed")
r_k = _natural("r_k", "kv_lora_rank")
d_n = _natural("d_n", "qk_nope_head_dim")
d_r = _natural("d_r", "qk_rope_head_dim")
d_v = _natural("d_v", "v_head_dim")

L_l = _natural("L_l", "layers with linear attention")
K_l = _natural("K_l", "key heads of linear attention")
H_l = _natural("H_l", "value heads of linear attention")
k_l = _natural("k_l", "key head size of linear attention")
v_l = _natural("v_l", "value head size of linear attention")
w_l = _natural("w_l", "taps of linear attention's convolution")

L_s = _natural("L_s", "layers with a state space (mamba)")
e_s = _natural("e_s", "channels of a state-space layer")
n_s = _natural("n_s", "state size per channel")
w_s = _natural("w_s", "taps of the state space's convolution")
r_s = _natural("r_s", "rank of the step size (mamba 1)")
H_s = _natural("H_s", "heads of the state space (mamba 2)")
G_s = _natural("G_s", "groups of the state space (mamba 2)")
m_1 = _natural("m_1", "1 for mamba 1")
m_2 = _natural("m_2", "1 for mamba 2")
b_c = _natural("b_c", "1 when the state space's convolution has a bias")
b_p = _natural("b_p", "1 when the state space's projections have biases")
n_i = _natural("n_i", "1 when the state space has norms of its own")

L_d = _natural("L_d", "layers with a dense MLP")
I = _natural("I", "intermediate_size")  # noqa: E741 - the field's name for it
g_m = _natural("g_m", "1 when the MLP has a gate matrix")
b_m = _natural("b_m", "1 when the MLP has biases")

L_e = _natural("L_e", "layers with experts")
E = _natural("E", "experts of a layer")
k_e = _natural("k_e", "experts that a token visits")
I_e = _natural("I_e", "intermediate size of an expert")
I_s = _natural("I_s", "intermediate size of the shared expert")
f_s = _natural("f_s", "1 when there is a shared expert")
g_s = _natural("g_s", "1 when the shared expert has a gate of its own")
b_r = _natural("b_r", "1 when the router has a bias")
c_r = _natural("c_r", "1 when the router has a float32 correction")
b_e = _natural("b_e", "1 when experts have biases")

K_h = _count("K_h", "Medusa heads")
n_r = _natural("n_r", "residual blocks of a Medusa head")
s_h = _natural("s_h", "1 when heads share the target's output head")
k_t = _count("k_t", "best tokens of each head, or row, that a tree may use")
n_t = _count("n_t", "rows per sequence that a model takes in while it drafts a tree, the root among them")
w_t = _count("w_t", "rows per sequence of the widest of those passes")
n_f = _count("n_f", "hidden states per row that a drafter reads")
V_d = _count("V_d", "tokens that an EAGLE-3 head proposes")
e_o = _natural("e_o", "1 when an EAGLE-3 head has an embedding of its own")

s = _count("s", "bytes per activation element")
s_w = _count("s_w", "bytes per matrix element")
s_c = _natural("s_c", "bytes of the scale of each matrix row (0 for floating weights)")
n_q = _natural("n_q", "matrices of one shape in one format")
s_v = _count("s_v", "bytes per element of norms, biases and routers, as stored")
k_b = _count("k_b", "bits of a cached element")
k_s = _natural("k_s", "bytes of the scale of a token's key, or value, in a KV head (0 where there is none)")
x_s = _natural("x_s", "1 when cached keys and values have scales (int8, int4)")
f_h = _natural("f_h", "1 when activations have fewer than 4 bytes")
f_k = _natural("f_k", "1 when the KV cache has another dtype than the activations")
f_o = _natural("f_o", "1 when matrix kernels allocate their own outputs (int8 weights, float32 on a CPU)")
m_r = _count("m_r", "rows that a matrix product is fed at least")

C = _count("C", "context: tokens per sequence")
B = _count("B", "batch_size")
gamma = _natural("gamma", "num_speculative_tokens of a chain, num_draft_nodes of a tree")
P = _count("P", "prefill_chunk")
r = _count("r", "logits_rows")

T = _count("T", "rows of the pass")
b = _count("b", "sequences in the pass")
S = _count("S", "KV slots per sequence")
L_w = _natural("L_w", "layers whose window is shorter than S")
S_w = _count("S_w", "KV slots per sequence of a windowed layer: window + max(P, γ + 1) - 1, at most S")
S_x = _count("S_x", "KV slots of the layer that has most")
x_f = _natural("x_f", "1 when some layer sees all slots")
x_w = _natural("x_w", "1 when some layer is windowed")
x_a = _natural("x_a", "1 when some layer has attention")
x_d = _natural("x_d", "1 when some layer has a dense MLP")
x_e = _natural("x_e", "1 when some layer has experts")
R = _count("R", "rows whose logits exist at one time")
N = _natural("N", "bytes of the runtime's one allocation")
G = _count("G", "elements that the loader converts at a time")
