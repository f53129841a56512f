"""Code that runs in every rank. Only this side imports torch, DeepSpeed, transformers and datasets."""
