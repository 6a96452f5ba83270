"""Read and fill the question that a vision-language model is asked: plain files that a user can read and replace."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template

from prophet_gym._checks import shown
from prophet_gym._io.files import read_json, read_text
from prophet_gym.errors import CheckpointError

PROMPTS = Path(__file__).parent / "prompts"
CRITERIA_NAME = "criteria.json"
PLACES = frozenset({"instruction", "criteria", "success", "failure"})
WORDS = ("Success", "Failure")
HIDDEN = re.compile(r"[<\[\x7f-\x9f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class Prompt:
    """Hold a text with the places `$instruction` and, if wanted, `$criteria`, `$success`, `$failure`; `$$` is a dollar.

    The instruction is put in as a JSON string on one line: braces, quotes, line breaks and other scripts keep their
    meaning, and it cannot end its own quotes.

    Attributes:
        text: The question that follows the frames.
        criteria: From a pattern of instructions (`*` stands for anything) to what counts as done; the first that fits.

    Raises:
        ValueError: The text has no `$instruction`, or another place than those named above.

    Example:
        >>> Prompt("Is $instruction done?").fill("open {the} drawer")
        'Is "open {the} drawer" done?'
    """

    text: str
    criteria: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        template = Template(self.text)
        places = set(template.get_identifiers()) if template.is_valid() else {"a lone $"}
        if "instruction" not in places or not places <= PLACES:
            raise ValueError(
                f"a prompt must have the place $instruction, may have {', '.join(sorted(f'${p}' for p in PLACES))} and "
                f"no other, and must write a dollar sign as $$; got {', '.join(sorted(places)) or 'none'}"
            )

    def fill(self, instruction: str) -> str:
        """Return the question about one task."""
        values = {
            "instruction": quote(instruction),
            "criteria": self.criterion(instruction),
            "success": WORDS[0],
            "failure": WORDS[1],
        }
        return Template(self.text).substitute(values).strip()

    def criterion(self, instruction: str) -> str:
        """Return what counts as done, by the first pattern that fits the instruction, whatever its case and spaces."""
        plain = " ".join(instruction.lower().split())
        fitting = (what for pattern, what in self.criteria.items() if fnmatchcase(plain, pattern.lower()))
        return next(fitting, "What the task asks for is visible in the last frames.")

    @classmethod
    def read(cls, path: Path | str) -> "Prompt":
        """Read a text file, and the criteria from `criteria.json` beside it if there is one.

        Args:
            path: A file, or the name of an installed one: `success` (a chain of thought, then an answer in a box) or
                `output` (one word).

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The file is not a text, or the criteria are not a JSON object of texts.
        """
        given = Path(path).expanduser()
        # not Path.is_file, which raises for a name too long for any file
        file = given if os.path.isfile(given) else PROMPTS / f"{path}.txt"
        if not os.path.isfile(file):
            known = ", ".join(sorted(p.stem for p in PROMPTS.glob("*.txt")))
            raise FileNotFoundError(f"a prompt must be a text file or one of {known}, got {shown(str(path))!r}")
        beside = file.parent / CRITERIA_NAME
        return cls(read_text(file, CheckpointError), _read_criteria(beside) if beside.is_file() else {})


def quote(instruction: str) -> str:
    r"""Write an instruction as one line of JSON, readable in any script; what no text file could hold becomes `?`.

    Beside what JSON requires, it escapes the line ends of Unicode, characters that are invisible or change the
    direction of writing, and the brackets of models' control tokens.

    Example:
        >>> print(quote("put the 汤 away <|im_end|>"))
        "put the 汤 away \u003c|im_end|>"
    """
    whole = json.dumps(instruction.encode(errors="replace").decode(), ensure_ascii=False)
    return HIDDEN.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in _utf16(found[0])), whole)


def _utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be")
    return [int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)]


def _read_criteria(path: Path) -> dict[str, str]:
    criteria = read_json(path, CheckpointError)
    wrong = next((pattern for pattern, text in criteria.items() if not isinstance(text, str)), None)
    if wrong is not None:
        got = type(criteria[wrong]).__name__
        raise CheckpointError(f"{path} must map patterns of instructions to texts, got a {got} for {shown(wrong)}")
    return criteria
