"""Run img2dataset on one order, given as JSON in the first argument; in a process of its own.

    {"threads": 64, "processes": 2, "urls": "urls.txt", "number": 1000, "out": "images"}

Its quickest way: files as they came, neither decoded nor encoded again, no hash, no EXIF, one shard a process. Two more
tries at once where a download fails. torch is kept from it: it does not need it, but would load it where it finds it,
for seconds, in each of its processes.
"""

import json
import math
import sys
from pathlib import Path

sys.modules["torch"] = None  # type: ignore[assignment]
from img2dataset import download  # noqa: E402


def main() -> None:
    order = json.loads(sys.argv[1])
    Path(order["out"]).mkdir(parents=True)
    download(
        url_list=order["urls"],
        output_folder=f"{order['out']}/all",
        thread_count=order["threads"],
        processes_count=order["processes"],
        number_sample_per_shard=math.ceil(order["number"] / order["processes"]),
        resize_mode="no",
        disable_all_reencoding=True,
        extract_exif=False,
        compute_hash=None,
        output_format="files",
        retries=2,
        enable_wandb=False,
    )


if __name__ == "__main__":  # its processes are spawned: they import this file
    main()
