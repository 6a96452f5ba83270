"""Name the object in a hand: crops of frames, and a small classifier that learns from frames of the simulator alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from prophet_gym.data import Episode
from prophet_gym.prophet._action_frames import project
from prophet_gym.rewards._classifier import conv_block
from prophet_gym.train._fit import CosineConfig, fit
from prophet_gym.train._objects import blurred

NOTHING = "nothing"
KINDS = ("held", "empty hand", "background")
CROP = 4  # crops are a fourth of the frame's width: an object of the suite and the fingers around it
DROP = 0.05  # of the frame's height, by which crops lie below the hand's point, where the object hangs
CARRIED, LIFTED, FREE = 0.08, 0.03, 0.12  # metres: hand to held object at most, its height, hand to others if empty
CLEAR = 0.15  # of the frame, between the centre of a crop that shows nothing and every object
SHIFT = 8  # training crops are shifted by up to one part in so many of their side
STRIDE = 3


class Judge(nn.Module):
    """Say what is in the middle of a crop: one of the objects, or nothing."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        convolutions = (conv_block(3, 24), conv_block(24, 48, stride=2), conv_block(48, 96, stride=2))
        last = nn.Linear(96 * 16, len(self.classes))
        self.layers = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), last)

    def forward(self, crops: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b c"]:
        return self.layers(crops.permute(0, 3, 1, 2).float() / 127.5 - 1)

    @torch.no_grad()
    def probabilities(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, "n c"]:
        return torch.cat([self(part).softmax(1) for part in torch.from_numpy(crops).split(256)]).numpy()


def held(episode: Episode) -> Bool[np.ndarray, " f"]:
    """Say in which frames the hand carries the target: it was told to close, and the target is near it and lifted."""
    path = episode.target_positions
    if path is None:
        return np.zeros(len(episode) + 1, bool)
    near = np.linalg.norm(path - episode.gripper_position, axis=1) < CARRIED
    return near & (path[:, 2] - path[0, 2] > LIFTED) & np.append(False, episode.actions[:, -1] > 0)


def below_hand(episode: Episode, gripper: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Return the centre of the crop for each position of the hand (metres), 0..1 in the image."""
    return _seen(episode, gripper) + np.array([0, DROP])


def background(episode: Episode, numbers: np.ndarray, random: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Draw a place in each of these frames where neither the hand nor an object is; the basket may be there."""
    drawn = random.uniform(0.1, 0.9, (len(numbers), 64, 1, 2))
    hand = below_hand(episode, episode.gripper_position[numbers])
    taken = np.concatenate([_seen(episode, _objects(episode)[numbers]), hand[:, None]], axis=1)
    room = np.linalg.norm(drawn - taken[:, None], axis=-1).min(axis=2)
    # The first place with room, or the one with most.
    return drawn[np.arange(len(numbers)), room.clip(max=CLEAR).argmax(1), 0]


def cut(
    frames: UInt8[np.ndarray, "n h w 3"], centres: Float[np.ndarray, "n 2"], margin: int = 0
) -> UInt8[np.ndarray, "n s s 3"]:
    """Cut a square around a place in each frame; beyond the frame its edge goes on."""
    height, width = frames.shape[1:3]
    side = width // CROP + 2 * margin
    padded = np.pad(frames, ((0, 0), (side, side), (side, side), (0, 0)), mode="edge")
    corners = np.rint(centres.clip(0, 1) * [width, height]).astype(int) + side - side // 2
    return np.stack([frame[y : y + side, x : x + side] for frame, (x, y) in zip(padded, corners, strict=True)])


def examples(
    episodes: Sequence[Episode], classes: Sequence[str], random: np.random.Generator, *, shift: bool
) -> tuple[UInt8[np.ndarray, "n s s 3"], np.ndarray, np.ndarray]:
    """Return crops of every third frame, the number of each one's class, and of its kind; a margin to `shift` in."""
    nothing, crops, labels, kinds = classes.index(NOTHING), [], [], []
    for episode in tqdm(episodes, desc="crops", mininterval=5):
        numbers = np.arange(random.integers(STRIDE), len(episode) + 1, STRIDE)
        frames, hand = episode.frames()[numbers], episode.gripper_position[numbers]
        centres, objects = below_hand(episode, hand), _objects(episode)[numbers]
        room = np.linalg.norm(_seen(episode, objects) - centres[:, None], axis=-1).min(1)
        empty = (np.linalg.norm(objects - hand[:, None], axis=-1).min(1) > FREE) & (room > CLEAR)
        target = classes.index(episode.sim.target) if episode.sim.target in classes else nothing
        margin = frames.shape[2] // CROP // SHIFT if shift else 0
        drawn = background(episode, numbers, random)
        shown = (
            (held(episode)[numbers], centres, target),
            (empty, centres, nothing),
            (numbers % 2 == 0, drawn, nothing),
        )
        for kind, (kept, at, label) in enumerate(shown):
            if kept.any():
                crops.append(cut(frames[kept], at[kept], margin))
                labels += [label] * len(crops[-1])
                kinds += [kind] * len(crops[-1])
    return np.concatenate(crops), np.array(labels), np.array(kinds)


def train(episodes: Sequence[Episode], classes: Sequence[str], steps: int, folder: Path, seed: int) -> Judge:
    """Fit a judge, or resume it; every object, the empty hand and the background come equally often."""
    crops, labels, kinds = examples(episodes, classes, np.random.default_rng(seed), shift=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(classes)
    _, group, counts = np.unique(labels * len(KINDS) + kinds, return_inverse=True, return_counts=True)
    weights, images, answers = torch.from_numpy(1 / counts[group]), torch.from_numpy(crops), torch.from_numpy(labels)
    side = crops.shape[1] * SHIFT // (SHIFT + 2)

    def loss(model: Judge, _step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.multinomial(weights, 64, replacement=True, generator=generator)
        corners = torch.randint(crops.shape[1] - side + 1, (64, 2), generator=generator).tolist()
        cropped = [images[n, y : y + side, x : x + side] for n, (y, x) in zip(chosen.tolist(), corners, strict=True)]
        return F.cross_entropy(model(blurred(torch.stack(cropped), generator)), answers[chosen]), {}

    return fit(judge, loss, CosineConfig(steps, 2e-3, warmup=50, seed=seed), folder, name="judge").eval()


def _objects(episode: Episode) -> Float[np.ndarray, "f n 3"]:
    """Return the positions of all that can be carried."""
    movable = [n for n, name in enumerate(episode.sim.object_names) if not name.startswith("basket")]
    return episode.sim.object_positions[:, movable]


def _seen(episode: Episode, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    if episode.camera is None:
        raise ValueError(f"{episode.name} must say what its camera shows; record it with `prophet collect`")
    return project(torch.from_numpy(points).double(), torch.from_numpy(episode.camera))[..., :2].numpy()
