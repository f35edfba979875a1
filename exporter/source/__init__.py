"""The source of an export: an open_clip model loaded by name, with its preprocessing and tokenizer as plain data."""
