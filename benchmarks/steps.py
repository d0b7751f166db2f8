"""Commands of DeepRock run one after the other as a person would type them, each shown with its seconds."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd


class Steps:
    """Runs `curate` and `classify` on one data folder and one recipe below `home`."""

    def __init__(self, home: Path, recipe: Path) -> None:
        self.home, self.recipe = home, recipe
        self.seconds: dict[str, float] = {}

    def path(self, name: str) -> str:
        """Of a file below `home`, as a word of a command."""
        return str(self.home / name)

    def curate(self, command: str, *words: str, may_fail: bool = False) -> bool:
        """Run `curate COMMAND`; whether it kept its promise."""
        from curate.cli import main

        data = [] if command == "stats" else ["--data", self.path("data")]
        recipe = ["--recipe", str(self.recipe)] if command in ("scrape", "balance") else []
        return self._run("curate", main, [command, *words, *data, *recipe], may_fail)

    def classify(self, command: str, *words: str) -> None:
        """Run `classify COMMAND`."""
        from classify.cli import main

        self._run("classify", main, [command, *words, "--data", self.path("data")], may_fail=False)

    def embed(self, manifest: pd.DataFrame) -> np.ndarray:
        """(n, d) embeddings by the run `before`, out of the cache that the audit filled."""
        from classify.features import embed
        from classify.models import load_backbone

        data = self.home / "data"
        return embed(manifest, data, load_backbone("", run=self.home / "runs" / "before"), cache=data / "cache")

    def _run(self, name: str, main: Callable[[list[str]], None], words: list[str], may_fail: bool) -> bool:
        print(f"\n$ {name} {' '.join(words)}", flush=True)
        start = time.perf_counter()
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        taken = time.perf_counter() - start
        key = f"{name} {words[0]}"
        self.seconds[key] = self.seconds.get(key, 0.0) + taken
        print(f"({taken:.1f} s)", flush=True)
        if code and not may_fail:
            raise SystemExit(f"{name} {words[0]} ended with exit code {code}")
        return code == 0
