"""The plain vision transformers give what the published ones do: transformers' classes, and timm's where it is."""

import pytest
import torch

from prophrl_algos.vla.prismatic._vision import COLOURS, FusedVision, VisionTransformer, VitSize, vit_size

DINO = VitSize(width=32, depth=2, heads=4, hidden=64, grid=3, registers=4, dino=True)
OLD, NEW = ("query", "key", "value"), ("q_proj", "k_proj", "v_proj")
SIGLIP = VitSize(width=24, depth=3, heads=4, hidden=40, grid=3)


def random_vision(size, seed=0):
    eye = VisionTransformer(size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in eye.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator) + ("norm" in name or "ls" in name))
    return eye


def pixels(size):
    return torch.randn(2, 3, 14 * size.grid, 14 * size.grid, generator=torch.Generator().manual_seed(1))


def test_dinov2_is_that_of_transformers():
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    eye = random_vision(DINO)
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, image_size=42, patch_size=14
    )
    oracle = Dinov2WithRegistersModel(config).eval()
    ours = eye.state_dict()
    # transformers 5 calls the layers of attention otherwise than 4 does
    new = "encoder.layer.0.attention.q_proj.weight" in oracle.state_dict()
    query, key, value = (f"attention.{'' if new else 'attention.'}{n}" for n in (NEW if new else OLD))
    merge = "attention.o_proj" if new else "attention.output.dense"
    theirs = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.register_tokens": ours["reg_token"],
        # timm adds no position to the class token
        "embeddings.position_embeddings": torch.cat([torch.zeros(1, 1, 32), ours["pos_embed"]], 1),
        "embeddings.patch_embeddings.projection.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": ours["patch_embed.proj.bias"],
    }
    for block in range(2):
        here, there = f"blocks.{block}.", f"encoder.layer.{block}."
        for kind in ("weight", "bias"):
            parts = ours[f"{here}attn.qkv.{kind}"].chunk(3)
            for name, part in zip((query, key, value), parts, strict=True):
                theirs[f"{there}{name}.{kind}"] = part
            theirs[f"{there}{merge}.{kind}"] = ours[f"{here}attn.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                theirs[f"{there}{name}.{kind}"] = ours[f"{here}{name}.{kind}"]
        for ls, scale in (("ls1", "layer_scale1"), ("ls2", "layer_scale2")):
            theirs[f"{there}{scale}.lambda1"] = ours[f"{here}{ls}.gamma"]
    report = oracle.load_state_dict(theirs, strict=False)
    assert not report.unexpected_keys
    assert all("layer.2." in name or name.startswith(("layernorm", "embeddings.mask")) for name in report.missing_keys)
    with torch.no_grad():
        expected = oracle(pixels(DINO), output_hidden_states=True).hidden_states[2][:, 5:]
        torch.testing.assert_close(eye(pixels(DINO)), expected, atol=1e-5, rtol=1e-5)


def test_siglip_is_that_of_transformers():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    eye = random_vision(SIGLIP)
    config = SiglipVisionConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=4, intermediate_size=40, image_size=42, patch_size=14,
        hidden_act="gelu",
    )  # fmt: skip
    oracle = SiglipVisionModel(config).eval()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in oracle.state_dict()) else ""
    ours = eye.state_dict()
    theirs = {
        "embeddings.patch_embedding.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": ours["patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": ours["pos_embed"][0],
    }
    for block in range(3):
        here, there = f"blocks.{block}.", f"encoder.layers.{block}."
        for kind in ("weight", "bias"):
            parts = ours[f"{here}attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                theirs[f"{there}self_attn.{name}.{kind}"] = part
            theirs[f"{there}self_attn.out_proj.{kind}"] = ours[f"{here}attn.proj.{kind}"]
            for name, other in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
                theirs[f"{there}{other}.{kind}"] = ours[f"{here}{name}.{kind}"]
            for name in ("mlp.fc1", "mlp.fc2"):
                theirs[f"{there}{name}.{kind}"] = ours[f"{here}{name}.{kind}"]
    report = oracle.load_state_dict({prefix + name: tensor for name, tensor in theirs.items()}, strict=False)
    assert not report.unexpected_keys
    with torch.no_grad():
        expected = oracle(pixels(SIGLIP), output_hidden_states=True).hidden_states[3]
        torch.testing.assert_close(eye(pixels(SIGLIP)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.vla
@pytest.mark.parametrize("size", [DINO, SIGLIP], ids=["dinov2", "siglip"])
def test_names_and_features_are_those_of_timm(size):
    import timm

    oracle = timm.models.vision_transformer.VisionTransformer(
        img_size=14 * size.grid, patch_size=14, embed_dim=size.width, depth=size.depth + 1, num_heads=size.heads,
        mlp_ratio=size.hidden / size.width, init_values=1.0 if size.dino else None, class_token=size.dino,
        reg_tokens=size.registers, no_embed_class=size.dino, num_classes=0,
        global_pool="token" if size.dino else "map",
    ).eval()  # fmt: skip
    eye = random_vision(size)
    last = f"blocks.{size.depth}."
    behind = {name for name in oracle.state_dict() if name.startswith((last, "norm.", "attn_pool.", "fc_norm."))}
    report = oracle.load_state_dict(eye.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) == behind
    assert vit_size(oracle.state_dict(), size.heads) == size
    with torch.no_grad():
        expected = next(iter(oracle.get_intermediate_layers(pixels(size), n={size.depth - 1})))
        torch.testing.assert_close(eye(pixels(size)), expected, atol=1e-5, rtol=1e-5)


def test_each_backbone_sees_its_own_colours_and_their_features_stand_side_by_side():
    fused = FusedVision(DINO, SIGLIP)
    images = torch.randint(0, 256, (2, 42, 42, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    shares = images.movedim(-1, 1).double() / 255
    own = [
        ((shares - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).float()
        for mean, std in COLOURS
    ]
    expected = torch.cat([fused.featurizer(own[0]), fused.fused_featurizer(own[1])], 2)
    torch.testing.assert_close(fused(images), expected, atol=1e-5, rtol=1e-5)
    assert fused.width == 56


def test_backbones_that_see_other_patches_are_refused():
    with pytest.raises(ValueError, match="grids of 3 and 2"):
        FusedVision(DINO, VitSize(width=24, depth=1, heads=4, hidden=40, grid=2))
