"""What TensorFlow's errors say."""

from __future__ import annotations

_PLACES = ("Graph execution error", "Detected at node", "File ", "Original stack", "<stack traces", "[[")
"""How lines begin with which TensorFlow says where in a graph an error occurred."""

_MAX_CHARACTERS = 500


def telling_line(error: BaseException) -> str:
    """The line of an error's message that says why; others say where in a graph. "" where there is no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_PLACES)]
    return (telling or lines or [""])[0][:_MAX_CHARACTERS]
