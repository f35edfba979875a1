"""docs/hub.md: its commands and its Python run, one after the other, against a server of the hub's protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from documentation import ROOT, commands, names_hub, snippets
from hub_server import TOKEN, hub_environment, running_hub
from made_pictures import picture

PAGE = ROOT / "docs" / "hub.md"


def test_the_page_works(tmp_path: Path) -> None:
    here = [command for command in commands(PAGE) if names_hub(command.text)]
    pushing = [command for command in here if "--push" in command.words or "exporter.publishing" in command.words]
    using = [command for command in here if command not in pushing]
    assert len(pushing) >= 3
    assert len(using) >= 4
    (tmp_path / "photos").mkdir()
    picture(1).save(tmp_path / "photos" / "1.jpg")
    bin_folder = str(Path(sys.executable).parent)

    def run(words: list[str], place: str) -> None:
        path = {"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN}
        environment = hub_environment(hub.url, tmp_path / "home", **path)
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{place}: {' '.join(words)}: {done.stderr[-500:]}"

    with running_hub() as hub:
        for command in pushing:
            run(["sh", "-c", command.text], command.place)
        # The page pulls a branch v1 of the first repository.
        repository = hub.repositories["me/demo-clip"]
        repository.refs["v1"] = repository.refs["main"]
        assert set(hub.repositories) == {"me/demo-clip", "me/other-clip"}
        for command in using:
            run(["sh", "-c", command.text], command.place)
        for block in snippets(PAGE):
            run([sys.executable, "-c", block.text], str(block))
    assert (tmp_path / "demo-clip" / "manifest.json").is_file()
