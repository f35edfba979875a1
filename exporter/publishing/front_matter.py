"""The front matter of a model card: the metadata by which the hub sorts and finds models.

Fields and the list of licences: https://huggingface.co/docs/hub/model-cards and https://huggingface.co/docs/hub/repositories-licenses.
"""

from __future__ import annotations

import json
import re
from typing import Any

from engines.manifest import Manifest
from exporter.source.licences import UNKNOWN, License

_HUB_PREFIX = "hf-hub:"
_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")  # words that YAML 1.1 reads as other types
# The hub's identifiers of licences that weights of CLIP models have, or that `exporter.source.licences` knows; any other licence
# is "other" with its name.
_LICENSES = frozenset(
    name
    for names in (
        "apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc unlicense cc0-1.0 gemma",
        "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nd-4.0",
        "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 apple-amlr apple-ascl",
        "openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m",
        "gpl-2.0 gpl-3.0 agpl-3.0 lgpl-3.0 mpl-2.0",
    )
    for name in names.split()
)


def license_of(manifest: Manifest) -> License | None:
    """The licence of the weights that the manifest states; None where it states none."""
    name = manifest.model.license
    return None if name is None else License(name, manifest.model.license_source)


def front_matter(manifest: Manifest) -> str:
    """The YAML block, with its two lines of dashes. Texts are in double quotes, as JSON writes them, which YAML reads."""
    fields: dict[str, Any] = {
        **_license(manifest),
        "library_name": "openclip-engines",
        "pipeline_tag": _pipeline_tag(manifest),
        "tags": list(
            dict.fromkeys(["clip", "openclip", "onnx", manifest.precision, *(e.kind for e in manifest.engines)])
        ),
    }
    name = manifest.model.name
    if manifest.model.source == "hf-hub" and name.startswith(_HUB_PREFIX):
        fields["base_model"] = name.removeprefix(_HUB_PREFIX)
    lines = []
    for key, value in fields.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_scalar(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return "\n".join(["---", *lines, "---", ""])


def _license(manifest: Manifest) -> dict[str, str]:
    terms = license_of(manifest)
    if terms is None:
        return {}
    name = terms.id.lower()
    if name == UNKNOWN or name in _LICENSES:
        return {"license": name}
    link = {"license_link": terms.source} if terms.source and terms.source.startswith("https://") else {}
    return {"license": "other", "license_name": name, **link}


def _pipeline_tag(manifest: Manifest) -> str:
    if len(manifest.towers) == 2:
        return "zero-shot-image-classification"
    return "image-feature-extraction" if "image" in manifest.towers else "feature-extraction"


def _scalar(value: str) -> str:
    """A plain word as it is; other text in quotes."""
    return value if re.fullmatch(r"[a-z][a-z0-9.-]*", value) and value not in _NOT_TEXT else json.dumps(value)
