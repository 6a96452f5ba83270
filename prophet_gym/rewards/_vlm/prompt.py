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
PLACES = ("instruction", "criteria", "success", "failure")
WORDS = ("Success", "Failure")
HIDDEN = re.compile(r"[<\[\x7f-\x9f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class Prompt:
    """Hold a text with the places `$instruction` and, if wanted, `$criteria`, `$success`, `$failure`; `$$` is a dollar.

    The instruction is put in as a JSON string on one line: braces, quotes, line breaks and other scripts keep their
    meaning, and it cannot end its own quotes.
    """

    text: str
    # From a pattern of instructions (`*` stands for anything) to what counts as done; the first that fits counts.
    criteria: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        template = Template(self.text)
        places = set(template.get_identifiers()) if template.is_valid() else {"a lone $"}
        if "instruction" not in places or not places <= set(PLACES):
            raise ValueError(
                f"a prompt must have the place $instruction, may have {', '.join(sorted(f'${p}' for p in PLACES))} and "
                f"no other, and must write a dollar sign as $$; got {', '.join(sorted(places)) or 'none'}"
            )

    def fill(self, instruction: str) -> str:
        """Return the question about one task."""
        plain = " ".join(instruction.lower().split())
        fitting = (what for pattern, what in self.criteria.items() if fnmatchcase(plain, pattern.lower()))
        criterion = next(fitting, "What the task asks for is visible in the last frames.")
        values = (quote(instruction), criterion, *WORDS)
        return Template(self.text).substitute(dict(zip(PLACES, values, strict=True))).strip()

    @classmethod
    def read(cls, path: Path | str) -> "Prompt":
        """Read a text file, and the criteria from `criteria.json` beside it if there is one.

        Installed are `success` (a chain of thought, then an answer in a box) and `verdict` (one word).
        """
        given = Path(path).expanduser()
        # not Path.is_file, which raises for a name too long for any file
        file = given if os.path.isfile(given) else PROMPTS / f"{path}.txt"
        if not os.path.isfile(file):
            known = ", ".join(sorted(p.stem for p in PROMPTS.glob("*.txt")))
            raise FileNotFoundError(f"a prompt must be a text file or one of {known}, got {shown(str(path))!r}")
        beside = file.parent / CRITERIA_NAME
        criteria = read_json(beside, CheckpointError) if beside.is_file() else {}
        for pattern, text in criteria.items():
            if not isinstance(text, str):
                got = f"a {type(text).__name__} for {shown(pattern)}"
                raise CheckpointError(f"{beside} must map patterns of instructions to texts, got {got}")
        return cls(read_text(file, CheckpointError), criteria)


def quote(instruction: str) -> str:
    r"""Write an instruction as one line of JSON, readable in any script; what no text file could hold becomes `?`.

    Beside what JSON requires, it escapes the line ends of Unicode, characters that are invisible or change the
    direction of writing, and the brackets of models' control tokens.
    """
    whole = json.dumps(instruction.encode(errors="replace").decode(), ensure_ascii=False)
    return HIDDEN.sub(lambda char: re.sub("(....)", r"\\u\1", char[0].encode("utf-16-be").hex()), whole)
