"""`frugal-rt completion`."""

import pytest

from ..commands import frugal


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell):
    result = frugal("completion", shell)
    assert result.exit_code == 0
    assert "_FRUGAL_RT_COMPLETE" in result.output
