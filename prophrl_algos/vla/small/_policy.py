"""A small language-conditioned flow VLA: one picture and an instruction to a chunk of actions, on a CPU."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import require_kinds
from prophet_gym._io.tensor_files import require_finite
from prophet_gym.errors import CheckpointError
from prophrl_algos.flow.policy import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._observations import shown_images
from prophrl_algos.vla.io._weights import load_strictly, read_json, read_safetensors, require_sizes
from prophrl_algos.vla.small._networks import ActionHead, PlaceEncoder, TextEncoder

if TYPE_CHECKING:
    from prophrl_algos.vla._load import LoadOptions

LAYOUT = "config.json with `places` and `max_bytes`, model.safetensors: what SmallVLA.save_pretrained writes"
START = 1
"""The byte before every text, so that none is empty."""
POINTING = 10.0
"""Weight of the squared error of shown places, whose unit is half a picture."""
ALIKE = 1.0
"""Weight of the squared difference between what is seen in two worlds, whose unit is its variance over moments."""
LEAST_STD = 0.02
"""A command that the demonstrations hardly use is not blown up beyond this, in command units."""


def recognises(files: Collection[str], config: Mapping[str, Any]) -> str | None:
    """`save_pretrained` writes the arguments of the class."""
    if {"places", "max_bytes"} <= config.keys() and "model.safetensors" in files:
        return "config.json holds the arguments of a SmallVLA"
    return None


def load(folder: Path, options: "LoadOptions") -> "SmallVLA":
    """A policy that `save_pretrained` wrote.

    Raises:
        CheckpointError: the config does not fit the class, or tensors are missing, unexpected or of another shape.
        ValueError: it has no adapters (`train="lora"`), or fewer actions would be executed than a chunk has.
    """
    if options.train == "lora":
        raise ValueError("a SmallVLA has no adapters: pass train='full', 'expert' (its action head) or 'none'")
    config = dict(read_json(folder / "config.json"))
    try:
        require_kinds(SmallVLA, config)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    require_sizes(config, folder / "config.json")
    if options.num_steps is not None:
        config["num_steps"] = options.num_steps
    policy = SmallVLA(**config)
    whole = policy.spec.exec_steps
    if options.exec_steps not in (None, whole):
        raise ValueError(f"a SmallVLA executes all {whole} actions of a chunk, got exec_steps={options.exec_steps}")
    load_strictly(policy, read_safetensors(folder), source=folder)
    policy.requires_grad_(options.train == "full")
    policy.head.requires_grad_(options.train in ("full", "expert"))
    return policy


class SmallVLA(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="prophet-gym",
    license="apache-2.0",
    tags=["robotics", "vision-language-action", "flow-matching"],
):
    """Places in the picture that the instruction makes matter, read by a flow-matching transformer over the actions.

    Where demonstrations also show where things are (`obs["points"]`, e.g. of the gripper and of the object to be picked
    up, which a simulator knows), cloning teaches its first places to point there; acting never needs it.

    Latents are commands with the demonstrations' mean and deviation taken out (`fit_actions`). It sees no joint state
    and no earlier frame. The weights know nothing of `num_steps`, so one set of them serves K = 10 and K = 4:
    `SmallVLA.from_pretrained(folder, num_steps=4)`.

    Example:
        >>> import numpy as np
        >>> policy = SmallVLA(num_steps=4).eval()
        >>> obs = policy.prepare({"image": np.zeros((2, 128, 128, 3), np.uint8)}, ["pick up the milk", "stop"])
        >>> policy.velocity(policy.encode(obs, grad=False), torch.zeros(2, 8, 7), torch.ones(2)).shape
        torch.Size([2, 8, 7])
    """

    learns_where = True
    sees_twins = True

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
        """Draw the weights.

        Args:
            horizon: actions of a chunk; all are executed.
            action_dim: numbers of an action.
            num_steps: K, denoising steps.
            signs: numbers of an action that are sent as -1 or +1, LIBERO's gripper.
            image_size: pictures are averaged to this height and width, pixels; a multiple of 8.
            places: read off the picture.
            width: of text, places and transformer; a multiple of `heads`.
            layers: of the transformer.
            heads: of each attention.
            max_bytes: of an instruction.
            draws: noises and times per demonstration in `sft_loss`; the picture is read once for all of them.
            shift: in train mode, pictures are moved by up to so many pixels.
            jitter: in train mode, contrast and brightness of each colour vary by this share.
            blur: in train mode, pictures are mixed with themselves blurred by a Gaussian of so many pixels, so that it
                reads pictures of a world model, which are never quite sharp, as it does a camera's; 0 for never.
            seed: of the weights.

        Raises:
            ValueError: for a size that does not fit.
        """
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
            self.text = TextEncoder(width)
            self.eye = PlaceEncoder(places, width)
            self.head = ActionHead(horizon, action_dim, width, layers, heads)
            for vectors in (self.eye.names, self.head.positions):
                nn.init.normal_(vectors, std=0.1)
        binary = torch.zeros(action_dim, dtype=torch.bool)
        binary[list(signs)] = True
        self.register_buffer("binary", binary, persistent=False)
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        self.binary: Tensor
        self.float()  # whatever torch's default is
        self.action_mean: Tensor
        self.action_std: Tensor

    def fit_actions(self, actions: Float[Tensor, "n a"]) -> None:
        """Take the demonstrations' mean and deviation as the scale of latents; before any training."""
        self.action_mean.copy_(actions.mean(0).masked_fill(self.binary.cpu(), 0.0))
        self.action_std.copy_(actions.std(0).clamp(min=LEAST_STD).masked_fill(self.binary.cpu(), 1.0))

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Pictures at the policy's own size, and the bytes of the instructions.

        Raises:
            ValueError: an instruction is too long, or images are not uint8 `(rows, h, w, 3)`.
        """
        text = torch.zeros(len(instructions), self.max_bytes + 1, dtype=torch.uint8)
        for row, instruction in enumerate(instructions):
            letters = instruction.lower().encode()
            if len(letters) > self.max_bytes:
                raise ValueError(
                    f"an instruction must have at most max_bytes={self.max_bytes} bytes, got {len(letters)}: "
                    f"{instruction[:60]!r}...; shorten it, or make the policy with more"
                )
            text[row, : len(letters) + 1] = torch.tensor([START, *letters], dtype=torch.uint8)
        return {"image": shrunk(shown_images(env_obs, "image", len(instructions)), self.image_size), "text": text}

    def encode(self, obs: Obs, *, grad: bool) -> TensorContext:
        """Keys and values of every layer of the action head."""
        return self._encode(obs["image"], obs["text"], grad=grad)

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32."""
        return self.head(x, t, ctx["prefix"]).float()

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Latents to commands; the gripper's is -1 or +1."""
        del obs
        actions = x0 * self.action_std + self.action_mean
        return torch.where(self.binary, torch.where(actions >= 0, 1.0, -1.0), actions)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Mean squared error of the velocity at `draws` times per row; in train mode on varied pictures.

        `obs["points"]` (b, p, 2), where given, says how far across and down the picture (-1 to 1, edge to edge) the
        first p places should be; what is NaN or outside is unknown. `obs["twin"]`, pictures like `obs["image"]`, shows
        the same moments in another world: the same commands are to be given there, and the same things to be seen.

        Times are denser towards noise, with density 1.5 sqrt(t): the Beta(1.5, 1) of pi0 (arXiv 2410.24164, app. B).
        """
        device = self.action_mean.device
        image, moved = obs["image"].to(device), torch.zeros(1, 2, device=device, dtype=torch.float32)
        worlds = 2 if "twin" in obs else 1
        if worlds == 2:
            image = torch.cat([image, obs["twin"].to(device)], -1)
        if self.training:
            image, moved = varied(image, self.shift, self.jitter, generator)
        image = torch.cat(image.split(3, -1))
        if self.training:
            image = softened(image, self.blur, generator)
        x0 = (actions.to(device).float() - self.action_mean) / self.action_std
        x0 = x0.repeat_interleave(self.draws, 0)
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float32).to(device)
        t = (torch.rand(len(x0), generator=generator, dtype=torch.float32) ** (2 / 3)).to(device)
        places, centres = self._look(image, obs["text"].repeat(worlds, 1))
        context = TensorContext(prefix=self.head.prefix(places)).repeat_interleave(self.draws)
        x = torch.lerp(x0, noise, t[:, None, None]).repeat(worlds, 1, 1)
        loss = F.mse_loss(self.velocity(context, x, t.repeat(worlds)), (noise - x0).repeat(worlds, 1, 1))
        if "points" in obs:
            points = (obs["points"].to(device) + moved[:, None]).repeat(worlds, 1, 1)
            loss = loss + POINTING * pointing_error(centres, points, self.cells)
        return loss + ALIKE * difference(places[:, :-1]) if worlds == 2 else loss

    @torch.no_grad()
    def places(self, obs: Obs) -> Float[Tensor, "b n 2"]:
        """How far across and down the picture, -1 to 1 edge to edge, the places are that it looks at.

        Where demonstrations had points, the first places are where it thinks that those are.
        """
        return self._look(obs["image"], obs["text"])[1] * (self.cells - 1) / self.cells

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: dict[str, Any] | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Write config, weights and, where there is none yet, a card: whole or not at all.

        Args:
            save_directory: the folder.
            config: see `PyTorchModelHubMixin`.
            model_card_kwargs: likewise.

        Raises:
            CheckpointError: a weight is not finite.
        """
        require_finite(self.state_dict(), "the policy", why="cannot be saved")
        with atomic_directory(save_directory, last="config.json") as temporary:
            super().save_pretrained(temporary, config=config, model_card_kwargs=model_card_kwargs)
            if (Path(save_directory) / "README.md").exists():
                (temporary / "README.md").unlink(missing_ok=True)

    @property
    def cells(self) -> int:
        """Of the grid that places are found on, in a row."""
        return self.image_size // 4

    def _encode(self, image: Tensor, text: Tensor, *, grad: bool) -> TensorContext:
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return TensorContext(prefix=self.head.prefix(self._look(image, text)[0]))

    def _look(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the places and of the text, and where the places are."""
        device = self.action_mean.device
        pixels = image.to(device).movedim(-1, 1).float() / 127.5 - 1
        texts, row_of = text.to(device).unique(dim=0, return_inverse=True)
        words = self.text(texts)[row_of]
        places, centres = self.eye(pixels, words)
        return torch.cat([places, words[:, None]], 1), centres


def difference(places: Float[Tensor, "bb n d"]) -> Float[Tensor, ""]:
    """Mean squared difference between the first and the second half of the rows, by the variance over rows."""
    one, other = places.chunk(2)
    return (one - other).square().mean() / places.detach().var(0).mean().clamp(min=1e-6)


def pointing_error(
    centres: Float[Tensor, "b n 2"], points: Float[Tensor, "b p 2"], cells: int
) -> Float[Tensor, ""]:  # fmt: skip
    """Mean squared distance of the first places to known points; 0 where none is known.

    Points are measured from edge to edge of the picture, places between the centres of the outer cells.
    """
    known = (points.abs() <= 1).all(-1)
    error = (centres[:, : points.shape[1]] - points.nan_to_num() * cells / (cells - 1)).square().sum(-1)
    return (error * known).sum() / known.sum().clamp(min=1)


def shrunk(image: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Averaged to size x size."""
    if image.shape[1:3] == (size, size):
        return image.clone()
    pixels = F.interpolate(image.movedim(-1, 1).float(), (size, size), mode="area")
    return pixels.round().to(torch.uint8).movedim(1, -1).contiguous()


def varied(
    image: Tensor, shift: int, jitter: float | int, generator: torch.Generator | None
) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b 2"]]:
    """Pictures moved by up to `shift` pixels (edges repeated), with other contrast and brightness of each colour.

    Several pictures of a row, three channels each, are varied alike. Also how far across and down each row was moved; 2
    is the whole picture.
    """
    rows, height, width, channels = image.shape
    pixels = F.pad(image.movedim(-1, 1).float(), [shift] * 4, mode="replicate")
    moves = torch.randint(2 * shift + 1, (rows, 2), generator=generator)
    moved = torch.stack([
        each[:, down : down + height, across : across + width]
        for each, (down, across) in zip(pixels, moves.tolist(), strict=True)
    ])  # fmt: skip
    colours = (1 + jitter * (2 * torch.rand(2, rows, 3, 1, 1, generator=generator, dtype=torch.float32) - 1)).to(
        image.device
    )
    contrast, brightness = colours.repeat(1, 1, channels // 3, 1, 1).unbind(0)
    changed = (moved - 127.5) * contrast + 127.5 * brightness
    along = 2 * (shift - moves.flip(1)) / torch.tensor([width, height], dtype=torch.float32)
    return changed.clamp(0, 255).movedim(1, -1), along.to(image.device)


def softened(
    image: Float[Tensor, "b h w 3"], blur: float | int, generator: torch.Generator | None
) -> Float[Tensor, "b h w 3"]:
    """Each picture mixed with itself blurred by a Gaussian of `blur` pixels, by a share drawn from 0 to 1."""
    if not blur:
        return image
    reach = math.ceil(2 * blur)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32) / blur) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, 1, -1)
    pixels = image.movedim(-1, 1)
    padded = F.pad(pixels, [reach] * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    share = torch.rand(len(image), generator=generator).to(image)
    return torch.lerp(pixels, blurred, share[:, None, None, None]).movedim(1, -1)
