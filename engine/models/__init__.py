"""What is read: a model's tensors, layers, config, tokenizer and adapters, wherever it lies."""
