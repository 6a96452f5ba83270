"""Ask a vision-language model on this machine: any image-text-to-text model of transformers."""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prophet_gym._checks import first_line, listed, require_count, require_known, require_number
from prophet_gym._io.files import reading
from prophet_gym._io.tensor_files import require_finite
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards._vlm.votes import Question, Reply

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
DTYPES = ("auto", "float32", "bfloat16", "float16")


class ProcessorInputs:
    """Turn questions into what a model's forward takes, with the model's own processor."""

    def __init__(self, processor: Any, tokenizer: Any) -> None:
        self.processor = processor
        self.tokenizer = tokenizer

    def encode(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Return one row per question, padded on the left, each ending where the answer begins."""
        self.tokenizer.padding_side = "left"
        images = [[part.numpy() for part in each.parts if isinstance(part, Tensor)] or None for each in questions]
        shown = {"images": images, "input_data_format": "channels_last"} if any(images) else {}
        return dict(self.processor(text=[*map(self.chat, questions)], **shown, padding=True, return_tensors="pt"))

    def chat(self, question: Question) -> str:
        """Write a question as one user turn, with the tokenizer's control tokens in texts taken apart."""
        content = [
            {"type": "image"} if isinstance(part, Tensor) else {"type": "text", "text": harmless(part, self.tokenizer)}
            for part in question.parts
        ]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


class PatchInputs(ProcessorInputs):
    """Build inputs of the Qwen-VL family: an image is patches and a grid, with a placeholder in the text per token.

    Its complete processors need torchvision, for video files; here their parts are used by themselves.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, image_token: str) -> None:
        super().__init__(tokenizer, tokenizer)
        self.image_processor = image_processor
        self.image_token = image_token

    def encode(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Encode as `ProcessorInputs` does; `mm_token_type_ids` says which tokens belong to images."""
        images = [part.numpy() for question in questions for part in question.parts if isinstance(part, Tensor)]
        vision: dict[str, Tensor] = {}
        if images:
            vision |= self.image_processor(images=images, input_data_format="channels_last", return_tensors="pt")
        per_token = self.image_processor.merge_size**2
        counts = iter((vision["image_grid_thw"].prod(-1) // per_token).tolist() if images else [])
        texts = []
        for question in questions:
            first, *others = self.chat(question).split(self.image_token)
            texts.append(first + "".join(self.image_token * next(counts) + other for other in others))
        tokens = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = tokens["input_ids"]
        of_images = (ids == self.tokenizer.convert_tokens_to_ids(self.image_token)).int()
        return {"input_ids": ids, "attention_mask": tokens["attention_mask"], "mm_token_type_ids": of_images} | vision


class LocalVlm:
    """Answer questions by sampling, and tell how likely one word is against another.

    Questions of a batch do not share randomness: an answer depends on its question and seed alone, up to rounding.
    `batch` questions are answered at a time, in `max_new_tokens` at most; at a temperature of 0 the likeliest token is
    always taken.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: ProcessorInputs,
        *,
        name: str = "local",
        max_new_tokens: int = 512,
        temperature: float = 0.7,
        batch: int = 4,
    ) -> None:
        """Keep the network, what builds its inputs, and its name for logs."""
        self.model = model
        self.inputs = inputs
        self.name = name
        self.max_new_tokens, self.temperature, self.batch = _sampling(max_new_tokens, temperature, batch)
        self._takes = frozenset(inspect.signature(_inner(model).forward).parameters)

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        bits: int | None = None,
        adapter: Path | str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.7,
        batch: int = 4,
    ) -> "LocalVlm":
        """Load a model, by its Hub id (at a branch, tag or commit as `revision`) or folder, and what builds its inputs.

        `dtype` is `auto` (as stored) or one of `DTYPES`, `bits` are 4 or 8 for quantised weights (which needs
        bitsandbytes and a GPU), `adapter` is a folder that `prophet train-reward --backbone vlm` wrote.

        Raises:
            ModuleNotFoundError: transformers, or what `bits` and `adapter` need, is not installed.
            MissingWeightsError: There is no such model.
            CheckpointError: Its weights or the adapter's are damaged, or do not belong to its config.
        """
        require_known("dtype", dtype, DTYPES)
        if bits not in (None, 4, 8):
            raise ValueError(f"bits must be 4, 8 or None, got {bits}")
        _sampling(max_new_tokens, temperature, batch)
        if find_spec("transformers") is None:
            raise ModuleNotFoundError("a local model needs transformers: pip install 'prophet-gym[vlm]'")
        options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
        if bits is not None:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.bfloat16
            )
            options["device_map"] = {"": device}
        model, inputs = _load(name, revision, options)
        if adapter is not None:
            model = _with_adapter(model, Path(adapter))
        if bits is None:
            nn.Module.to(model, device)
        require_finite(dict(model.named_parameters()), f"the vision-language model {name!r}")
        return cls(model.eval(), inputs, name=name, max_new_tokens=max_new_tokens, temperature=temperature, batch=batch)

    @torch.no_grad()
    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Sample an answer to each question."""
        return [reply for batch in self._batches(questions) for reply in self._answer(batch)]

    def word_logits(self, questions: Sequence[Question], words: tuple[str, str]) -> Float[Tensor, "b 2"]:
        """Return the logits of each word's first token, which must differ, where the answer begins; gradients flow."""
        tokens = [self.inputs.tokenizer.encode(word, add_special_tokens=False)[0] for word in words]
        if tokens[0] == tokens[1]:
            raise ValueError(f"the two answers must begin with different tokens, got {words[0]!r} and {words[1]!r}")
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        outputs = (self.model(**self._encode(batch), **last_only) for batch in self._batches(questions))
        return torch.cat([output.logits[:, -1, tokens].float() for output in outputs])

    def _batches(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        return [questions[start : start + self.batch] for start in range(0, len(questions), self.batch)]

    def _encode(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        batch, device = self.inputs.encode(questions), next(self.model.parameters()).device
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in batch.items()
            if name != "mm_token_type_ids" or name in self._takes
        }

    def _answer(self, questions: Sequence[Question]) -> list[Reply]:
        from transformers import GenerationConfig, LogitsProcessorList

        network: Any = self.model
        batch, inner, tokenizer = self._encode(questions), _inner(network), self.inputs.tokenizer
        stored = inner.generation_config
        # The stored config may sample with one generator for the whole batch; the processor below samples by itself.
        inner.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=stored.eos_token_id,
            pad_token_id=tokenizer.pad_token_id if stored.pad_token_id is None else stored.pad_token_id,
        )
        noise = [RowNoise([question.seed for question in questions], self.temperature)] if self.temperature else []
        try:
            whole = network.generate(**batch, logits_processor=LogitsProcessorList(noise))
        finally:
            inner.generation_config = stored
        said = whole[:, batch["input_ids"].shape[1] :]
        return [Reply(text) for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


class RowNoise:
    """Sample by greedy search over noisy logits, with one generator per question (the Gumbel-max trick)."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Return logits over temperature plus Gumbel noise: their largest is a sample of the softmax."""
        del input_ids
        waiting = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=each) for each in self.generators])
        return scores.float() / self.temperature - waiting.clamp(min=1e-20).log().to(scores.device)


def _sampling(max_new_tokens: int, temperature: float, batch: int) -> tuple[int, float, int]:
    temperature = require_number("temperature", temperature, least=0)
    return require_count("max_new_tokens", max_new_tokens), temperature, require_count("batch", batch)


def _load(name: str, revision: str | None, options: Mapping[str, Any]) -> tuple[Any, ProcessorInputs]:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    # That no code of the repository runs is said at each call, where a test looks for it.
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, trust_remote_code=False, output_loading_info=True, **options
        )
        model, found = loaded
        image_processor: Any = AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
        token = getattr(model.config, "image_token_id", None)
        if hasattr(image_processor, "merge_size") and token is not None:
            tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            inputs = PatchInputs(image_processor, tokenizer, tokenizer.convert_ids_to_tokens(token))
        else:
            processor: Any = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
            inputs = ProcessorInputs(processor, processor.tokenizer)
    except ImportError:
        raise
    except Exception as error:  # whatever damaged files make the readers raise; OSError and ValueError for missing ones
        kind = MissingWeightsError if isinstance(error, OSError | ValueError) else CheckpointError
        raise kind(
            f"could not load the vision-language model {name!r}: {first_line(error)} Give a Hub id, or a folder with "
            "whole files of config, weights, tokenizer and image processor"
        ) from error
    # transformers draws at random what a file lacks, and a model of random weights still answers.
    lacking = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if lacking:
        raise CheckpointError(f"the weights of {name!r} lack {listed(lacking)}; fetch or save them again")
    return model, inputs


def _with_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    with reading(f"the adapter in {folder} is damaged", "fetch or train it again", CheckpointError), peft_is_behind():
        # An adapter that lacks weights would silently be the base model.
        warnings.filterwarnings("error", "Found missing adapter keys")
        return PeftModel.from_pretrained(model, str(folder))


def harmless(text: str, tokenizer: Any) -> str:
    """Put a space inside each control token of a text, so that the model reads it as text and does not obey it."""
    tokens = {str(token) for token in tokenizer.get_added_vocab()} | set(tokenizer.all_special_tokens)
    for token in sorted(tokens, key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@contextmanager
def peft_is_behind() -> Iterator[None]:
    """Silence the warning that peft provokes by a name that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
