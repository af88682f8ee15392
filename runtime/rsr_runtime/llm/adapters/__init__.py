"""LoRA adapters of PEFT: their settings, their tensors, and how they are attached to a model."""
