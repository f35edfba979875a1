"""Bundles from the Hugging Face hub: references such as ``hf:ORG/NAME@REV``, and downloads that are checked on arrival."""
