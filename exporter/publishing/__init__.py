"""Publishing a finished bundle on the Hugging Face hub: the model card made from its manifest, and the upload in one commit."""
