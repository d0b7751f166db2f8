"""Run img2dataset on one order, given as JSON in the first argument; in a process of its own.

    {"threads": 64, "processes": 2, "urls": "urls.txt", "number": 1000, "out": "images", "mode": "decoded"}

"decoded" is its default, images decoded and made 256 pixels small; any other mode its quickest way, files as they came.
No EXIF, one shard a process; two more tries at once where a download fails. torch is kept from it: it does not need it,
but would load it where it finds it, for seconds, in each of its processes.
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
    as_they_came = {"resize_mode": "no", "disable_all_reencoding": True, "compute_hash": None}
    download(
        url_list=order["urls"],
        output_folder=f"{order['out']}/all",
        thread_count=order["threads"],
        processes_count=order["processes"],
        number_sample_per_shard=math.ceil(order["number"] / order["processes"]),
        extract_exif=False,
        output_format="files",
        retries=2,
        enable_wandb=False,
        **({} if order["mode"] == "decoded" else as_they_came),
    )


if __name__ == "__main__":  # its processes are spawned: they import this file
    main()
