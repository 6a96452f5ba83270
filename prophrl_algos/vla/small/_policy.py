"""Make a small language-conditioned flow VLA: from one image and an instruction to a chunk of actions, on a CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import require_kinds
from prophet_gym._io.tensor_files import require_finite
from prophrl_algos.flow import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._action_head import ActionHead, flow_targets
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._units import shown_images
from prophrl_algos.vla.io._weights import CONFIG, load_strictly, read_json, read_safetensors, require_sizes
from prophrl_algos.vla.small._networks import KeypointEncoder, TextEncoder, shrunk, softened, varied

_START = 1
"""The byte before every text, so that none is empty."""
_POINTING = 10.0
"""Weight of the squared error of shown keypoints, whose unit is half an image."""
_LEAST_STD = 0.02
"""Smallest scale of a latent, in units of actions: dimensions that are hardly used are not blown up."""


class SmallVLA(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="prophet-gym",
    license="apache-2.0",
    tags=["robotics", "vision-language-action", "flow-matching"],
):
    """Find the keypoints in the image that matter for the instruction, and denoise actions from their features.

    Demonstrations may also show where things are (`obs["points"]`, e.g. of the gripper and of the object to be picked
    up, which a simulator knows). Cloning then teaches the first keypoints to lie there; acting never needs it.

    Latents are actions, normalised by the demonstrations' mean and deviation (`fit_actions`). The policy sees neither
    the joint state nor earlier frames. The weights do not depend on `num_steps`, so one set serves K = 10 and K = 4:
    `SmallVLA.from_pretrained(folder, num_steps=4)`.

    Args:
        horizon: Number of actions of a chunk; all are executed.
        action_dim: Number of dimensions of an action.
        num_steps: Number K of denoising steps.
        signs: Dimensions of an action that are rounded to -1 or +1; LIBERO's gripper by default.
        image_size: Height and width, in pixels, that images are scaled down to; a multiple of 8, at least 16.
        places: Number of keypoints.
        width: Width of text, keypoints and transformer; a multiple of `heads`.
        layers: Number of layers of the transformer.
        heads: Number of attention heads.
        max_bytes: Largest number of bytes of an instruction.
        draws: Number of samples of noise and time per demonstration in `sft_loss`; the image is encoded once for all.
        shift: Largest shift of images in train mode, in pixels.
        jitter: Largest change of each colour's contrast and brightness in train mode, as a fraction.
        blur: Width in pixels of the Gaussian blur that is mixed into images in train mode (0 for none), so that the
            policy reads the blurry images of a world model as it does those of a camera.
        seed: Seed of the weights.

    Raises:
        ValueError: A size does not fit.

    Example:
        >>> import numpy as np
        >>> policy = SmallVLA(num_steps=4).eval()
        >>> obs = policy.prepare({"image": np.zeros((2, 128, 128, 3), np.uint8)}, ["pick up the milk", "stop"])
        >>> policy.velocity(policy.encode(obs, grad=False), torch.zeros(2, 8, 7), torch.ones(2)).shape
        torch.Size([2, 8, 7])
    """

    LAYOUT: ClassVar[str] = (
        "config.json with `places` and `max_bytes`, model.safetensors: what SmallVLA.save_pretrained writes"
    )
    binary: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self,
        horizon: int = 8,
        action_dim: int = 7,
        num_steps: int = 10,
        *,
        signs: Sequence[int] = (6,),
        image_size: int = 96,
        places: int = 32,
        width: int = 192,
        layers: int = 4,
        heads: int = 4,
        max_bytes: int = 128,
        draws: int = 2,
        shift: int = 3,
        jitter: float = 0.1,
        blur: float = 1.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8 and at least 16, got {image_size}")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if any(not 0 <= index < action_dim for index in signs):
            raise ValueError(f"signs must be numbers of an action, 0..{action_dim - 1}, got {tuple(signs)}")
        self.spec = FlowSpec(horizon, action_dim, action_dim, horizon, num_steps)
        self.image_size, self.max_bytes, self.draws = image_size, max_bytes, draws
        self.shift, self.jitter, self.blur = shift, jitter, blur
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # `eye`, and `letters` inside the text encoder, are the names in weights that were saved earlier.
            self.text = TextEncoder(width)
            self.eye = KeypointEncoder(places, width)
            self.head = ActionHead(horizon, action_dim, width, layers, heads)
            for vectors in (self.eye.names, self.head.positions):
                nn.init.normal_(vectors, std=0.1)
        binary = torch.zeros(action_dim, dtype=torch.bool)
        binary[list(signs)] = True
        self.register_buffer("binary", binary, persistent=False)
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        self.float()  # whatever torch's default is

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        """Return why a folder's config is that of a SmallVLA; None if it is not."""
        return "config.json holds the arguments of a SmallVLA" if {"places", "max_bytes"} <= config.keys() else None

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> "SmallVLA":
        """Load a policy that `save_pretrained` wrote; ValueError for options that do not apply to it."""
        if options.train == "lora":
            raise ValueError("a SmallVLA has no adapters: pass train='full', 'expert' (its action head) or 'none'")
        config = read_json(folder / CONFIG)
        require_kinds(SmallVLA, config)
        require_sizes(config, folder / CONFIG)
        chosen: dict[str, Any] = {} if options.num_steps is None else {"num_steps": options.num_steps}
        policy = SmallVLA(**config | chosen)
        whole = policy.spec.exec_steps
        if options.exec_steps not in (None, whole):
            raise ValueError(f"a SmallVLA executes all {whole} actions of a chunk, got exec_steps={options.exec_steps}")
        load_strictly(policy, read_safetensors(folder), source=folder)
        policy.requires_grad_(options.train == "full")
        policy.head.requires_grad_(options.train in ("full", "expert"))
        return policy

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **kwargs: Any
    ) -> str | None:
        """Write config, weights and, if there is none yet, a card, atomically.

        With `push_to_hub` the folder is then pushed, with `repo_id` (the folder's name by default) and `kwargs` as in
        `PyTorchModelHubMixin`, and the commit's URL is returned. CheckpointError if a weight is not finite.
        """
        require_finite(self.state_dict(), "the policy", why="cannot be saved")
        folder = Path(save_directory)
        with atomic_directory(folder, last=CONFIG) as new:
            card = kwargs.get("model_card_kwargs")
            super().save_pretrained(new, config=kwargs.get("config"), model_card_kwargs=card)
            if (folder / "README.md").exists():  # a card that somebody wrote is kept
                (new / "README.md").unlink(missing_ok=True)
        return self.push_to_hub(repo_id or folder.name, **kwargs) if push_to_hub else None

    def fit_actions(self, actions: Float[Tensor, "n a"]) -> None:
        """Set the normalisation of latents from demonstrations; call it before any training."""
        self.action_mean.copy_(actions.mean(0).masked_fill(self.binary.cpu(), 0.0))
        self.action_std.copy_(actions.std(0).clamp(min=_LEAST_STD).masked_fill(self.binary.cpu(), 1.0))

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Return images scaled to the policy's size, and the bytes of the instructions.

        Raises:
            ValueError: An instruction is too long, or images are not uint8 `(rows, h, w, 3)`.
        """
        text = torch.zeros(len(instructions), self.max_bytes + 1, dtype=torch.uint8)
        for row, instruction in enumerate(instructions):
            chars = instruction.lower().encode()
            if len(chars) > self.max_bytes:
                raise ValueError(
                    f"an instruction must have at most max_bytes={self.max_bytes} bytes, got {len(chars)}: "
                    f"{instruction[:60]!r}...; shorten it, or make the policy with more"
                )
            text[row, : len(chars) + 1] = torch.tensor([_START, *chars], dtype=torch.uint8)
        return {"image": shrunk(shown_images(env_obs, "image", len(instructions)), self.image_size), "text": text}

    def encode(self, obs: Obs, *, grad: bool) -> TensorContext:
        """Return keys and values of every layer of the action head."""
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return TensorContext(prefix=self.head.prefix(self._look(obs["image"], obs["text"])[0]))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32."""
        return self.head(x, t, ctx["prefix"]).float()

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Return the actions; the dimensions in `signs` are -1 or +1."""
        del obs
        actions = x0 * self.action_std + self.action_mean
        return torch.where(self.binary, torch.where(actions >= 0, 1.0, -1.0), actions)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of velocities at `draws` times per demonstration; train mode augments images.

        Times are denser towards noise, with density 1.5 sqrt(t): the Beta(1.5, 1) of pi0 (arXiv 2410.24164, app. B).

        Args:
            obs: What `prepare` returns. Optional `points` (b, p, 2) give where the first p keypoints should be, across
                and down the image from -1 to 1; NaN and points outside are unknown.
            actions: Demonstrated actions.
            generator: Draws noise, times and augmentations.
        """
        device = self.action_mean.device
        image, moved = obs["image"].to(device), torch.zeros(1, 2, device=device, dtype=torch.float32)
        if self.training:
            image, moved = varied(image, self.shift, self.jitter, generator)
            image = softened(image, self.blur, generator)
        x0 = (actions.to(device).float() - self.action_mean) / self.action_std
        x, t, velocity = flow_targets(x0, self.draws, generator)
        keypoints, centres = self._look(image, obs["text"])
        context = TensorContext(prefix=self.head.prefix(keypoints)).repeat_interleave(self.draws)
        loss = F.mse_loss(self.velocity(context, x, t), velocity)
        if "points" in obs:
            points = obs["points"].to(device) + moved[:, None]
            loss = loss + _POINTING * pointing_error(centres, points, self.image_size // 4)
        return loss

    def _look(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the keypoints and of the text, and the keypoints' positions."""
        device = self.action_mean.device
        pixels = image.to(device).movedim(-1, 1).float() / 127.5 - 1
        # A batch has few instructions: each is read once.
        texts, row_of = text.to(device).unique(dim=0, return_inverse=True)
        words = self.text(texts)[row_of]
        keypoints, centres = self.eye(pixels, words)
        return torch.cat([keypoints, words[:, None]], 1), centres


def pointing_error(centres: Float[Tensor, "b n 2"], points: Float[Tensor, "b p 2"], cells: int) -> Float[Tensor, ""]:
    """Return the mean squared distance of the first keypoints to known points, or 0 where none is known."""
    known = (points.abs() <= 1).all(-1)
    # Points are measured from edge to edge of the image, keypoints between the centres of the outer cells of the grid.
    error = (centres[:, : points.shape[1]] - points.nan_to_num() * cells / (cells - 1)).square().sum(-1)
    return (error * known).sum() / known.sum().clamp(min=1)
