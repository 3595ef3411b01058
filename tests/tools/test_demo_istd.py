"""The table of the ISTD demo."""

import importlib.util
import json
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent.parent / "tools" / "demo_istd.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("demo_istd", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_has_student_and_teacher(tmp_path):
    tool = load_tool()
    values = zip(tool.COLUMNS, (50, 40, 90, 12.5), strict=True)
    results = {f"sirst:/some/data:test.txt/istd/{key}": value for key, value in values}
    results |= {key.replace("/istd/", "/istd_teacher/"): None for key in results}
    (tmp_path / "pal" / "test").mkdir(parents=True)
    (tmp_path / "pal" / "test" / "results.json").write_text(json.dumps({"results": results}))
    rows = tool.rows_of("pal", tmp_path, 3.0)
    assert rows["pal"] == {"IoU": 50, "nIoU": 40, "Pd": 90, "Fa": 12.5, "seconds": 3.0}
    table = tool.format_table(rows).splitlines()
    assert table[0].split() == ["IoU", "nIoU", "Pd", "Fa", "seconds"]
    assert table[1].split() == ["pal", "50.00", "40.00", "90.00", "12.50", "3.00"]
    assert table[2].split() == ["pal,", "teacher", "3.00"]
