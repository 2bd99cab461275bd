"Segment Anything in the refiner's place, with a tiny network of random weights. Skipped where transformers is not installed."
import numpy as np
import pytest
import torch

from pointwssis.config import RefinerConfig
from pointwssis.core import CheckpointError, ConfigError, rng
from pointwssis.data.coco import decode, encode
from pointwssis.refiner import sam
from pointwssis.registry import REFINERS
from pointwssis.runs.presets import preset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A saved SamModel of 64 pixels and 17,000 parameters."
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install .[sam]")
    vision = dict(hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
                  window_size=4, global_attn_indexes=[0], mlp_dim=32, num_pos_feats=8)
    prompts = dict(hidden_size=16, image_size=64, patch_size=8, image_embedding_size=8, mask_input_channels=16)
    decoder = dict(hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    model = transformers.SamModel(config)
    for p in model.parameters(): p.data.normal_(std=.3)     # so that all hints reach the output
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def objects(n: int, size=(50, 70)):
    "An image, n squares and a click in each."
    image = torch.from_numpy(rng(0, "sam").integers(0, 256, (3, *size), dtype=np.uint8))
    masks = torch.zeros(n, *size, dtype=torch.bool)
    for k, m in enumerate(masks): m[3 * k:3 * k + 20, 4 * k:4 * k + 24] = True
    return image, masks, torch.tensor([[4. * k + 12, 3. * k + 10] for k in range(n)]).view(-1, 2)


def test_clicks_boxes_and_masks_all_count(weights):
    model = sam.load_sam(weights)
    image, masks, points = objects(3)
    found = sam.sam_masks(model, image, masks, points)
    assert found.shape == masks.shape and found.dtype == torch.bool and found.flatten(1).any(1).all()
    with torch.inference_mode():
        pixels, scale = sam._input_image(image, 64)
        e = model.get_image_embeddings(pixels)
        def logits(xy=points[:1], box=(0, 0, 24, 20), mask=masks[:1]):
            return model(image_embeddings=e, input_points=(xy * scale)[:, None, None], input_labels=torch.ones(1, 1, 1, dtype=torch.int),
                         input_boxes=(torch.tensor([box]) * scale)[:, None], input_masks=sam._input_masks(mask, scale / 2, 32),
                         multimask_output=False).pred_masks
        plain = logits()
        for other in (logits(xy=points[2:]), logits(box=(8, 6, 32, 26)), logits(mask=masks[2:])): assert not torch.equal(plain, other)


def test_objects_do_not_depend_on_their_batch(weights):
    model = sam.load_sam(weights)
    image, masks, points = objects(5)
    whole = sam.sam_masks(model, image, masks, points)
    assert torch.equal(whole, sam.sam_masks(model, image, masks, points, batch=2))
    assert torch.equal(whole[3:4], sam.sam_masks(model, image, masks[3:4], points[3:4]))


def test_an_empty_mask_stays_empty_and_no_mask_is_no_call(weights):
    model = sam.load_sam(weights)
    image, masks, points = objects(2)
    assert not sam.sam_masks(model, image, masks & False, points).any()
    assert sam.sam_masks(model, image, masks[:0], points[:0]).shape == (0, 50, 70)


def test_an_erased_mask_leaves_the_rough_one(weights, monkeypatch):
    image, masks, points = objects(2)
    monkeypatch.setattr(sam, "_output_masks", lambda logits, size, side: torch.zeros(len(logits), *size, dtype=torch.bool))
    assert torch.equal(sam.sam_masks(sam.load_sam(weights), image, masks, points), masks)


def test_the_registry_entry_refines_run_lengths(weights, tmp_path):
    cfg = preset("shapes", **{"refiner.kind": "sam", "refiner.weights": str(weights), "device": "cpu"})
    kind = REFINERS[cfg.refiner.kind]
    assert kind.train(cfg, None, None, tmp_path)["parameters"] > 10_000 and not list(tmp_path.iterdir())
    image, masks, points = objects(3)
    rles = [encode(m) for m in masks.numpy()]
    first, none = kind.load(cfg, 5, tmp_path / "last.safetensors").refine([(image, rles, points, torch.zeros(3)), (image, [], points[:0], torch.zeros(0))])
    expected = sam.sam_masks(sam.load_sam(weights), image, masks, points)
    assert none == [] and torch.equal(torch.from_numpy(np.stack([decode(r, 50, 70) for r in first])), expected)


def test_files_that_are_no_sam_are_one_line(weights, tmp_path):
    with pytest.raises(CheckpointError, match="no weights with a config.json"): sam.load_sam(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="of type 'vit', not 'sam'"): sam.load_sam(tmp_path / "model.safetensors")


def test_without_transformers_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers .* pip install .\[sam\]"): sam.load_sam("model.safetensors")
    assert RefinerConfig().kind == "unet" and "sam" in REFINERS
