"""Film someone who drives the arm in `prophet play`: keys pressed in a headless Chromium, and what the page shows.

    python -m benchmarks.play.film --out docs/images/play.webp

A key is held for so many frames of the dream. The page is filmed afterwards, by its own slider, every other frame and
the key of that moment alight: so the film runs at the robot's pace, however busy the machine is that makes it.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from benchmarks.play.__main__ import played
from tests.browser import Page

PLAN = (
    *(("KeyS", "near", 16), ("KeyA", "left", 14), ("KeyF", "down", 23), ("Space", "", 10), ("KeyR", "up", 20)),
    *(("KeyD", "right", 41), ("KeyF", "down", 9), ("Space", "", 8), ("KeyR", "up", 14)),
)
"""Keys, their buttons and frames: to the bottle, down, grasp, up, over to the basket, down, let go, up."""


@dataclass(frozen=True)
class Args:
    """Configure the film."""

    out: Path
    task: str = "pick up the bbq sauce and place it in the basket"
    width: int = 860
    height: int = 840
    quality: int = 60
    beside: bool = False


DRIVE = """(plan) => {
  const shown = () => Number(document.querySelector('#views').dataset.frames ?? 0), pressed = [];
  const key = (kind, code) => dispatchEvent(new KeyboardEvent(kind, { code }));
  let place = 0, began = null, closed = false;
  (function next() {
    if (began !== null && shown() >= began + plan[place][2]) { key('keyup', plan[place++][0]); began = null; }
    const done = document.querySelector('#say').className === 'done';
    if (place === plan.length || done) { key('keydown', 'Escape'); globalThis.pressed = pressed; return; }
    if (began === null) {
      began = shown();
      closed ^= plan[place][0] === 'Space';
      pressed.push([began, plan[place][1], Boolean(closed)]);
      key('keydown', plan[place][0]);
    }
    requestAnimationFrame(next);
  })();
}"""
"""Press the keys in the page, where no frame comes between: from which frame on, which button, gripper closed."""


def image_at(page: Page, args: Args, frame: int, command: str, *, closed: bool, said: str) -> Image.Image:
    """Return what the page shows at a frame, with a button alight, and what it said then."""
    page.value(f"document.querySelector('#say').textContent = {json.dumps(said)}")
    page.value(f"document.querySelector('#say').className = {json.dumps('' if said == args.task + '.' else 'done')}")
    page.value(f"document.querySelector('#seek').value = {frame}")
    page.value("document.querySelector('#seek').dispatchEvent(new Event('input'))")
    for expression in (
        f"each.classList.toggle('on', each.dataset.command === '{command}')",
        f"each.id === 'gripper' && each.setAttribute('aria-pressed', {str(closed).lower()})",
        "each.id === 'play' && (each.textContent = 'Pause')",
    ):
        page.value(f"document.querySelectorAll('button').forEach((each) => {{ {expression} }})")
    clip = {"x": 0, "y": 0, "width": args.width, "height": args.height, "scale": 0.8}
    data = page.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def main(args: Args) -> None:
    options = ["--beside", "simulator"] if args.beside else []
    with played("bundled", *options, width=args.width) as page:
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.value(f"document.querySelector('#task').value = '{args.task}'")
        page.value("document.querySelector('#task').dispatchEvent(new Event('change'))")
        page.wait(f"document.querySelector('#say').textContent.startsWith('{args.task}. Press')", 60)
        page.value(f"({DRIVE})({json.dumps(PLAN)})")
        pressed = page.wait("globalThis.pressed", 300)
        page.wait("document.querySelector('#views').dataset.waiting === '0'", 60)
        said, last = page.value("[document.querySelector('#say').textContent, document.querySelector('#seek').max]")
        images = []
        for frame in [*range(0, int(last), 2), int(last)]:
            _, command, closed = [each for each in pressed if each[0] <= frame or each is pressed[0]][-1]
            images.append(
                image_at(
                    page, args, frame, command, closed=closed, said=said if frame == int(last) else f"{args.task}."
                )
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    spans = [100] * (len(images) - 1) + [1500]
    images[0].save(
        args.out, save_all=True, append_images=images[1:], duration=spans, loop=0, quality=args.quality, method=4
    )
    print(f"{len(images)} images, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(tyro.cli(Args))
