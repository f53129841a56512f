"""What runs in every rank. The only place that imports torch, deepspeed and transformers."""
