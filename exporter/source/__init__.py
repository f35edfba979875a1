"""A model's name to a loaded open_clip model, with its preprocessing and tokenizer as plain data."""
