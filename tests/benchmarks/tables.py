"""The errors of finished runs for the benchmarks that train: mean and deviation over seeds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class MaeRow(NamedTuple):
    """The errors of one run."""

    label: str
    valid: float
    valid_deviation: float
    test: float
    test_deviation: float
    num_seeds: int

    def words(self) -> str:
        """Render the row of a table."""
        valid, test = f"{self.valid:.4f} ± {self.valid_deviation:.4f}", f"{self.test:.4f} ± {self.test_deviation:.4f}"
        return f"{self.label:40} valid MAE {valid}   test MAE {test}   n = {self.num_seeds} seeds"


def mae_rows(workspace: Path, names: Mapping[str, str]) -> list[MaeRow]:
    """Read the errors of runs, given by label and name; the deviation of one seed is nan."""
    rows = []
    for label, name in names.items():
        metrics = json.loads((workspace / "runs" / name / "result.json").read_text(encoding="utf-8"))["metrics"]
        found = [metrics[split]["mae"] for split in ("valid", "test")]
        numbers = [float("nan") if one[key] is None else float(one[key]) for one in found for key in ("mean", "std")]
        rows.append(MaeRow(label, *numbers, len(found[0]["values"])))
    return rows
