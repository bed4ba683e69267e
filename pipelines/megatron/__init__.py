"""The only room that imports megatron.core: backend, model, training loop, checkpoints, export."""
