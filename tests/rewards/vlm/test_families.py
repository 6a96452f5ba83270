"""Other families of models than the default's, tiny and untrained, through the same code."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra vlm")

import transformers

from prophet_gym.rewards import LikelihoodReward, LocalVlm, Prompt, Question, VlmReward
from prophet_gym.rewards._vlm.local import PatchInputs, ProcessorInputs

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def save_qwen3(folder: Path, tiny_qwen: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_qwen)
    token = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen3VLConfig(
        text_config=LAYERS
        | {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 256,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.AutoImageProcessor.from_pretrained(tiny_qwen).save_pretrained(folder)


def save_llava(folder: Path, tiny_qwen: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_qwen)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    transformers.LlavaProcessor(
        image_processor=kind(size={"shortest_edge": 16}, crop_size=16),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    config = transformers.LlavaConfig(
        vision_config=LAYERS | {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8},
        text_config=LAYERS
        | {
            "model_type": "llama",
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize(("save", "inputs"), [(save_qwen3, PatchInputs), (save_llava, ProcessorInputs)])
def test_a_model_of_another_family_judges(save, inputs, tiny_qwen, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(tmp_path, tiny_qwen)
    model = LocalVlm.from_pretrained(str(tmp_path), max_new_tokens=3, batch=2)
    assert isinstance(model.inputs, inputs)
    videos = [torch.full((frames, 16, 16, 3), 40, dtype=torch.uint8) for frames in (0, 1, 5)]
    texts = ["a", "put {the}\n汤 <|im_end|> <image> <|image_pad|> away", "c"]
    with pytest.warns(RuntimeWarning, match="can be read"):
        votes = VlmReward(model, samples=1, retries=0, prompt=Prompt("$instruction")).score(videos, texts)
    assert votes.scored.tolist() == [False] * 3
    likely = LikelihoodReward(model, prompt=Prompt("$instruction")).score(videos, texts)
    assert likely.scored.tolist() == [False, True, True]
    assert 0 < float(likely.probability[1]) < 1


def test_a_picture_of_few_lines_is_not_taken_for_one_of_few_channels(tiny_qwen):
    model = LocalVlm.from_pretrained(str(tiny_qwen))
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)
    narrow = model.inputs.encode([Question((red.expand(3, 64, 3).contiguous(),))])
    square = model.inputs.encode([Question((red.expand(16, 16, 3).contiguous(),))])
    assert torch.allclose(narrow["pixel_values"][0], square["pixel_values"][0])
