"""Rotary position embeddings (Su et al., 2104.09864), in the half-rotated layout of Hugging Face's models."""

from __future__ import annotations

import math

import torch

from specplan.arch import ModelArch, RopeScaling


def inverse_frequencies(arch: ModelArch, factors: torch.Tensor | None = None) -> list[torch.Tensor]:
    """theta^(-2i/r) for i below r/2 with r = rotary_dim; float32 [r/2] on the CPU.

    The first set is scaled as the config says; a second one, of windowed layers with a base of their own, is not.

    Args:
        arch: rope_theta, rotary_dim and rope_scaling.
        factors: [r/2] divisors that a GGUF file carries.
    """
    exponents = torch.arange(0, arch.rotary_dim, 2, dtype=torch.int64).float() / arch.rotary_dim
    tables = [_scaled(1.0 / (arch.rope_theta**exponents), arch, factors)]
    if arch.local_rope_theta is not None:
        tables.append(1.0 / (arch.local_rope_theta**exponents))
    return tables


def _scaled(frequencies: torch.Tensor, arch: ModelArch, factors: torch.Tensor | None) -> torch.Tensor:
    if factors is not None:
        return frequencies / factors
    scaling = arch.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    return _llama3(frequencies, scaling)


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended."""
    original = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    result = torch.where(wavelengths > original / scaling.low_freq_factor, frequencies / scaling.factor, frequencies)
    between = (wavelengths <= original / scaling.low_freq_factor) & (wavelengths >= original / scaling.high_freq_factor)
    return torch.where(between, blended, result)
