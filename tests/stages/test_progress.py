import json
import logging
import sys

from mmrec.stages.progress import JsonFormatter


def test_a_line_of_json_has_all_that_is_known_and_is_one_line() -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("mmrec.x", logging.ERROR, "x.py", 1, "%d items, %s", (7, 'said "no"\n'), error)
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert (line["level"], line["logger"], line["message"]) == ("error", "mmrec.x", '7 items, said "no"\n')
    assert line["time"].endswith("+00:00") and "ValueError: bad" in line["traceback"]
