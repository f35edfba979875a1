"""The precisions of an export, and the search for units that must stay in float32."""
