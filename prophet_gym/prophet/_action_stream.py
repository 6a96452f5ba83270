"""The scalar stream: what actions add to the timestep embedding and to the shared AdaLN vector."""

from jaxtyping import Float
from torch import Tensor, nn


class _ActionMLP(nn.Module):
    """Apply two linear maps with GELU(tanh) between them (reference.md: "Scalar stream")."""

    def __init__(self, in_features: int, dim: int, out_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_features, 4 * dim)
        self.activation = nn.GELU(approximate="tanh")
        self.linear_2 = nn.Linear(4 * dim, out_features)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the features of flattened actions."""
        return self.linear_2(self.activation(self.linear_1(x)))


class ActionStream(nn.Module):
    """Read `actions_per_slot` actions a call with two MLPs, one for the embedding and one for the modulation.

    Differences from the paper: there one call reads the whole chunk for all latent frames. With `per_frame=True` each
    one has its own call, on the actions that lead to its own video frames: small models learn to obey faster with it.
    """

    def __init__(self, action_dim: int, actions_per_slot: int, dim: int, *, per_frame: bool = False) -> None:
        super().__init__()
        self.per_frame = per_frame
        self.to_embedding = _ActionMLP(action_dim * actions_per_slot, dim, dim)
        self.to_modulation = _ActionMLP(action_dim * actions_per_slot, dim, 3 * dim)

    def forward(
        self, actions: Float[Tensor, "b k a"], frames: int
    ) -> tuple[Float[Tensor, "b _ d"], Float[Tensor, "b _ d3"]]:
        """Return what is added to the embedding and to the modulation, `b 1 d` (shared) or `b frames d` (per frame)."""
        slots = frames if self.per_frame else 1
        flat = actions.reshape(actions.shape[0], slots, -1)
        expected = self.to_embedding.linear_1.in_features
        if flat.shape[-1] != expected:
            raise ValueError(
                f"actions must hold {slots} x {expected} numbers for each batch element, got shape "
                f"{tuple(actions.shape)}; check the chunk length and action_dim against the transformer's config"
            )
        return self.to_embedding(flat), self.to_modulation(flat)
