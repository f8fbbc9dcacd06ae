"""The page on many devices shows the code of the scripts that are run."""

import pathlib
import re

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PAGE = EXAMPLES / "train_on_many_devices.md"


def test_the_page_shows_what_is_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    scripts = [p.read_text() for p in (EXAMPLES / "distributed").glob("*.py")]
    for block in blocks:
        assert any(block in script for script in scripts), block
