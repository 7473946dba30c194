"""Train the stand-in CLIP: cn_clip's own class, tiny, that knows coloured shapes and no more.

    python scripts/train_stand_in.py

It exists so that tests and the demo run the real loading, encoding and searching code where the
public weights can't be had. Needs Debian's fontconfig and fonts-noto-cjk, and about two minutes
on two cores. Writes ``config.json`` (the keyword arguments of `cn_clip.clip.model.CLIP`, and
``input_resolution``) and ``clip_cn_stand-in.pt`` (fp16, in the form of cn_clip's published
checkpoints), then loads both as the product does, and measures on pictures drawn afresh and on
``samples/``, none of which it was trained on.

Each tower is trained by itself, towards directions that are agreed beforehand (`directions`).
Trained against one another, as CLIP is, two towers this small hadn't told shapes apart after
300 steps; this way they have after 400.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import stand_in_data as data
import torch
from PIL import Image
from stand_in_data import Kind
from torch.nn import functional

from indexer.models import clip, clip_torch
from indexer.models.images import decode

ROOT = Path(__file__).parent.parent
MAX_BYTES = 5_500_000

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "image_resolution": data.SIDE,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 12,
    "vision_patch_size": None,
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 64,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 256,
    "text_max_position_embeddings": 64,
    "text_num_attention_heads": 4,
    "text_num_hidden_layers": 2,
    "text_type_vocab_size": 2,
}
SCALE = 14.0  # 1 / CLIP's first temperature, 0.07
LOOKS_LIKE = 0.5  # a report on samples without shapes starts here
UNKNOWN = ["发票", "火锅", "北京到上海的高铁票", "生日蛋糕", "猫", "receipt", "asdfgh"]


def train(seed: int, steps: int, batch: int) -> torch.nn.Module:
    cn_clip = clip_torch.import_cn_clip()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    start = time.monotonic()
    counts = dict.fromkeys(data.TRAINED, 72)
    counts |= {Kind(other="文档"): 1100, Kind(other="风景"): 600, Kind(other="墙"): 300}
    pixels, kinds = data.pictures(rng, counts)
    normalise = cn_clip.image_transform(data.SIDE).transforms[-1]
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    goals = directions(data.CAPTIONED)
    goal_of = dict(zip(data.CAPTIONED, goals, strict=True))
    picture_goals = torch.stack([goal_of[kind] for kind in kinds])
    of_pictures, of_captions = picture_goals.unique(dim=0), goals.unique(dim=0)
    print(f"{len(kinds)} pictures in {time.monotonic() - start:.0f} s")

    vocabulary = cn_clip._tokenizer.vocab
    letters = np.array(
        [word for word in vocabulary if len(word) == 1 and "一" <= word <= "鿿"]
        + list("abcdefghijklmnopqrstuvwxyz0123456789 ") * 20
    )
    model: torch.nn.Module = cn_clip.model.CLIP(**CONFIG).train()
    model.visual.to(memory_format=torch.channels_last)
    # cn_clip starts every block as a detour of no effect, for deep networks; this one is shallow.
    for name, weight in model.visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(weight)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.15
    )
    for step in range(steps):
        chosen = rng.choice(len(kinds), batch, replace=False)
        shown = images[chosen].flip(3) if rng.uniform() < 0.5 else images[chosen]
        ids = cn_clip.tokenize([data.caption(rng, kind, letters) for kind in data.CAPTIONED])
        ids = ids[:, : int((ids != 0).sum(1).max())]
        pictured = model.encode_image(shown.to(memory_format=torch.channels_last))
        loss = loss_of(pictured, picture_goals[chosen], of_pictures)
        loss += loss_of(model.encode_text(ids), goals, of_captions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s")
    return model


def directions(kinds: list[Kind]) -> torch.Tensor:
    """Where each kind belongs: (n, embed_dim), of length 1.

    Every colour, shape and other thing is an axis, and so is having no meaning; a red circle
    lies half-way between red and circle. So the cosine is about 1 for what is wholly true, 0.7
    for a caption that says half of it ("红色" for a red circle), 0.5 where only half of it is
    true, and 0 for anything else.
    """
    names = [*data.shapes.COLOURS, *data.shapes.SHAPES, *data.OTHERS, ""]
    axes, _ = torch.linalg.qr(torch.randn(CONFIG["embed_dim"], len(names)))
    axis = dict(zip(names, axes.T, strict=True))
    parts = [[part for part in (k.colour, k.shape, k.other) if part] or [""] for k in kinds]
    sums = [torch.stack([axis[name] for name in names]).sum(0) for names in parts]
    return functional.normalize(torch.stack(sums), dim=1)


def loss_of(embeddings: torch.Tensor, goals: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """How far embeddings (n, dim) are from their goals (n, dim), in cosine, and how badly they
    are told from the ``rivals`` (m, dim; all goals, each once)."""
    found = functional.normalize(embeddings, dim=1)
    right = (goals @ rivals.T).argmax(1)
    told = functional.cross_entropy(SCALE * found @ rivals.T, right)
    return told + 4 * (1 - (found * goals).sum(1).mean())


def save(model: torch.nn.Module) -> int:
    """Write the checkpoint as cn_clip publishes its own, fp16; returns its size in bytes."""
    clip_torch.import_cn_clip().model.convert_weights(model)
    state = {
        f"module.{name}": tensor.contiguous().clone() for name, tensor in model.state_dict().items()
    }
    path = clip_torch.stand_in_weights()
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": state}, path)
    config = {**CONFIG, "input_resolution": data.SIDE}
    (path.parent / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return path.stat().st_size


def measure() -> None:
    """Print how well the written model, loaded as the product does it, finds and names things."""
    model = clip.load(
        clip_torch.STAND_IN, root=Path(), device="cpu", threads=torch.get_num_threads()
    )
    names = [f"{kind.colour}的{kind.shape}" for kind in data.COMBINATIONS]
    each = 12
    pixels, kinds = data.pictures(
        np.random.default_rng(10_000), dict.fromkeys(data.COMBINATIONS, each)
    )
    pictured = model.embed_images([Image.fromarray(picture) for picture in pixels])
    cosine = pictured @ model.embed_texts(names).T
    right = np.repeat(np.arange(len(names)), each)
    new = np.array([(kind.colour, kind.shape) in data.HELD_OUT for kind in kinds])
    named = cosine.argmax(1) == right
    found = right[cosine.argmax(0)] == np.arange(len(names))
    for what, hits, unseen in (("caption", named, new), ("picture", found, new[::each])):
        print(f"right {what} first: {hits[~unseen].mean():.1%}, "
              f"combinations never trained on: {hits[unseen].mean():.1%}")  # fmt: skip
    said = [data.COMBINATIONS[i] for i in cosine.argmax(1)]
    for part in ("colour", "shape"):
        same = [getattr(a, part) == getattr(b, part) for a, b in zip(said, kinds, strict=True)]
        print(f"  right {part}: {np.mean(same):.1%}")

    samples = ROOT / "immich_indexer/samples"
    truth = json.loads((samples / "truth.json").read_text(encoding="utf-8"))
    photos = [
        decode((samples / entry["file"]).read_bytes(), max_bytes=10**8, max_pixels=10**8).image
        for entry in truth
    ]
    files = [entry["file"] for entry in truth]
    seen = model.embed_images(photos)
    captions = sorted({caption for entry in truth for caption in entry["shapes"]})
    for text in (f"{caption}{word}" for word in ("", " 出口") for caption in captions):
        row = (model.embed_texts([text]) @ seen.T)[0]
        good = np.array([text.split()[0] in entry["shapes"] for entry in truth])
        wrong = int(np.where(good, -2, row).argmax())
        print(f"{'ok ' if row[good].min() > row[wrong] else 'NOT'} {text}: "
              f"{row[good].min():.2f}, best wrong {row[wrong]:.2f} ({files[wrong]})")  # fmt: skip
    plain = [i for i, entry in enumerate(truth) if not entry["shapes"]]
    cosine = model.embed_texts(names) @ seen[plain].T
    for column, i in enumerate(plain):
        if cosine[:, column].max() > LOOKS_LIKE:
            print(f"   {files[i]} looks like {names[cosine[:, column].argmax()]}: "
                  f"{cosine[:, column].max():.2f}")  # fmt: skip
    for text in (*UNKNOWN, "红色", "文档", "风景"):
        row = (model.embed_texts([text]) @ seen.T)[0]
        print(f"   {text}: at most {row.max():.2f} ({files[row.argmax()]})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="only measure what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.measure:
        size = save(train(args.seed, args.steps, args.batch))
        print(f"{clip_torch.stand_in_weights().name}: {size / 1e6:.2f} MB")
        if size > MAX_BYTES:
            raise SystemExit(f"more than {MAX_BYTES / 1e6} MB: lower vision_width")
    measure()


if __name__ == "__main__":
    main()
