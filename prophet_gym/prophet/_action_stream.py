"""The scalar stream: what actions add to the timestep embedding and to the shared AdaLN vector."""

from jaxtyping import Float
from torch import Tensor, nn


class _ActionMLP(nn.Module):
    """Two linear maps with GELU(tanh) between them, hidden width `4 * dim` (reference.md: "Scalar stream")."""

    def __init__(self, in_features: int, dim: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, 4 * dim)
        self.activation = nn.GELU(approximate="tanh")
        self.linear_2 = nn.Linear(4 * dim, out_features)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the features of flattened actions."""
        return self.linear_2(self.activation(self.linear_1(x)))


class ActionStream(nn.Module):
    """Read the actions of a chunk with two MLPs.

    One output is added to the timestep embedding before its RMS norm, the other to the shared AdaLN-LoRA vector.

    Args:
        action_dim: Dimensions of a model action.
        actions_per_slot: Actions that one MLP call reads.
        dim: Width D of the transformer.
        per_frame: False (the paper): one call reads the whole chunk, and all latent frames share its output.
            True: every latent frame has its own call, on the actions that lead to its own video frames.

    Differences from the paper: `per_frame=True` is ours; small models learn to obey faster with it.
    """

    def __init__(self, action_dim: int, actions_per_slot: int, dim: int, *, per_frame: bool = False) -> None:
        super().__init__()
        self.per_frame = per_frame
        self.to_embedding = _ActionMLP(action_dim * actions_per_slot, dim, dim)
        self.to_modulation = _ActionMLP(action_dim * actions_per_slot, dim, 3 * dim)

    def forward(
        self, actions: Float[Tensor, "b k a"], frames: int
    ) -> tuple[Float[Tensor, "b _ d"], Float[Tensor, "b _ d3"]]:
        """Embed the actions.

        Args:
            actions: The chunk. With `per_frame`, `k` is `frames * actions_per_slot`.
            frames: Latent frames T of the video.

        Returns:
            What is added to the embedding and to the modulation, `b 1 d` (shared) or `b T d` (per frame).
        """
        slots = frames if self.per_frame else 1
        flat = actions.reshape(actions.shape[0], slots, -1)
        expected = self.to_embedding.linear_1.in_features
        if flat.shape[-1] != expected:
            raise ValueError(
                f"actions must hold {slots} x {expected} numbers for each batch element, got shape "
                f"{tuple(actions.shape)}; check the chunk length and action_dim against the transformer's config"
            )
        return self.to_embedding(flat), self.to_modulation(flat)
