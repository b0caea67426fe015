"""The Llama architecture in plain torch, for training: parameters carry the names of the Hugging Face layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmos.pipelines.training.recipe import Recipe

ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5
INITIALIZER_RANGE = 0.02


class RootMeanSquareNorm(nn.Module):
    """x / √(mean(x²) + ε) · weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, NORM_EPSILON)


def rotary_tables(context: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (context, head_size) each (Su et al. 2021, arXiv:2104.09864; halves, as Llama pairs them)."""
    frequencies = 1.0 / ROPE_THETA ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + size / 2]) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head (arXiv:2305.13245)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = recipe.heads, recipe.kv_heads, recipe.head_size
        self.q_proj = nn.Linear(recipe.hidden_size, self.heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(recipe.hidden_size, self.kv_heads * self.head_size, bias=False)
        self.v_proj = nn.Linear(recipe.hidden_size, self.kv_heads * self.head_size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_size, recipe.hidden_size, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same."""
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.head_size).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_size).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.head_size).transpose(1, 2)
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class GatedMlp(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(recipe.hidden_size, recipe.intermediate_size, bias=False)
        self.up_proj = nn.Linear(recipe.hidden_size, recipe.intermediate_size, bias=False)
        self.down_proj = nn.Linear(recipe.intermediate_size, recipe.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention, then the MLP, each on a normalised copy and added back."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.input_layernorm = RootMeanSquareNorm(recipe.hidden_size)
        self.self_attn = Attention(recipe)
        self.post_attention_layernorm = RootMeanSquareNorm(recipe.hidden_size)
        self.mlp = GatedMlp(recipe)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Same shape as `x`."""
        x = x + self.self_attn(self.input_layernorm(x), cosines, sines)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, layers, last norm; apart from `Decoder` because the layout prefixes their names with `model.`."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(recipe.vocabulary, recipe.hidden_size)
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(recipe.layers))
        self.norm = RootMeanSquareNorm(recipe.hidden_size)


class Decoder(nn.Module):
    """A Llama decoder whose output matrix is its embedding. `state_dict()` is the content of model.safetensors."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = Trunk(recipe)
        cosines, sines = rotary_tables(recipe.context, recipe.head_size)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self._initialise(recipe)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, tokens, vocabulary) of the next token, for at most `context` tokens."""
        length = tokens.shape[1]
        cosines = self.get_buffer("cosines")[:length]
        sines = self.get_buffer("sines")[:length]
        x: Tensor = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cosines, sines)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, over tokens 1… of each row given those before."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def _initialise(self, recipe: Recipe) -> None:
        """Normal weights; what writes into the residual stream is smaller by √(2 · layers), as in GPT-2."""
        generator = torch.Generator().manual_seed(recipe.seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = INITIALIZER_RANGE / ((2 * recipe.layers) ** 0.5 if residual else 1.0)
            nn.init.normal_(parameter, std=scale, generator=generator)
