"""Code that runs in every rank. Only this side imports torch, DeepSpeed and transformers."""
