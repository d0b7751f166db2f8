"""A decoding process: reads paths of images from its standard input, a JSON string a line, and answers in JSON.

It ends with its input, and so when whoever started it is gone.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from curate.images import inspect
from curate.store import ImageError

LONGEST = 60  # seconds that one file may take; then the process dies of it


def work(answers: int) -> None:
    """Answer each line: with the fields of a `Picture`, the `cause` why it is none, or what else went wrong.

    Args:
        answers: the file descriptor to write to.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
    with suppress(BrokenPipeError):  # whoever asked is gone
        for line in sys.stdin.buffer:
            alarm(LONGEST)
            answer = json.dumps(look(json.loads(line)))
            alarm(0)
            os.write(answers, answer.encode() + b"\n")


def look(path: str) -> dict[str, Any]:
    """The answer to one path."""
    try:
        return inspect(Path(path).read_bytes())._asdict()
    except ImageError as error:
        return {"cause": str(error)}
    except MemoryError:
        return {"died": "not enough memory to decode it"}
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror}
