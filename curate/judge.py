"""The last step of an audit: which measures are flags, what the screen makes of each image, how suspicious it is."""

from pathlib import Path

import numpy as np
import pandas as pd

from curate.screen import learn, see, suspicion
from curate.spaces import keep_space
from curate.thresholds import flags


def judge(table: pd.DataFrame, embeddings: np.ndarray, standing: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Add `flags`, `suspicion`, and once there are decisions `reject_probability` and `reject_reason`.

    What the screen sees of the images is kept below the data root, so that it learns on while they are reviewed.

    Args:
        table: n measured rows with `image_id`.
        embeddings: (n, d); rows of NaN for images that do not open.
        standing: `Ledger.standing()`: the decisions in force, index `image_id`.
        root: the data root.
    """
    space = see(embeddings, table)
    keep_space(root, table["image_id"], space)
    decisions = standing.reindex(table["image_id"])
    rejected = np.where(decisions["verdict"].isna(), np.nan, (decisions["verdict"] == "reject").to_numpy(dtype=float))
    opinion = learn(space, rejected, decisions["reason"].to_numpy(dtype=object))
    raised = flags(table)
    return table.assign(
        flags=raised.where(raised != ""),
        reject_probability=np.nan if opinion is None else opinion.probability,
        reject_reason=pd.Series(np.nan if opinion is None else opinion.reason, table.index, dtype="str"),
        suspicion=suspicion(space, opinion, table),
    )
