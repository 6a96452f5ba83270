"""Films that a run's folder keeps for its report: animated WebP files with what is said of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.files import read_json, reading
from prophet_gym._io.pictures.panels import side_by_side, write_animation

FOLDER, _INDEX = "films", "films.json"
_SIDE = 192
"""Enlarge frames at least to so many pixels."""


@dataclass(frozen=True)
class Films:
    """Hold films and what is said of them.

    Attributes:
        about: Of what, and how it was made.
        films: Name of a file -> caption.
        header: Columns of the table of all episodes.
        rows: Its cells.
        curves: Mean uncertainty by chunk, of each condition.
        folder: Where the files are.
    """

    about: str
    films: Mapping[str, str]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    folder: Path = Path()

    def data(self, name: str) -> str:
        """Return a film as a data URI."""
        return f"data:image/webp;base64,{base64.b64encode((self.folder / Path(name).name).read_bytes()).decode()}"


@dataclass(frozen=True)
class Film:
    """Hold a film to be written: videos of one size side by side, each under its label, with a line below."""

    videos: Mapping[str, np.ndarray]
    footer: str
    caption: str
    fps: float = 20.0


def write_films(run: Path, films: Sequence[Film], told: Films) -> None:
    """Write films into a run's folder, in place of earlier ones, with what `told` says of them."""
    with atomic_directory(run / FOLDER, last=_INDEX) as folder:
        captions = {}
        for number, film in enumerate(films):
            length, height = (max(video.shape[axis] for video in film.videos.values()) for axis in (0, 1))
            every = max(1, round(film.fps / 10))
            images = [
                side_by_side(
                    # A video that ends sooner rests on its last frame.
                    {label: video[min(frame, len(video) - 1)] for label, video in film.videos.items()},
                    film.footer,
                    max(1, round(_SIDE / height)),
                )
                for frame in [*range(0, length, every), length - 1]
            ]
            write_animation(folder / f"{number:02d}.webp", images, max(1, round(film.fps / every)))
            captions[f"{number:02d}.webp"] = film.caption
        entries = {name: value for name, value in asdict(told).items() if name != "folder"} | {"films": captions}
        (folder / _INDEX).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def read_films(run: Path) -> Films | None:
    """Return the films of a run, None if there are none; ValueError if they are damaged."""
    path = run / FOLDER / _INDEX
    if not path.is_file():
        return None
    with reading(f"{path} is damaged", "remove its folder and make the films again with --films"):
        films = Films(**read_json(path), folder=path.parent)
        for name in films.films:
            films.data(name)
    return films
