"""Every SYN, FIN, RST and ICMP message of a trial, at every interface on the path, on one clock.

`Recorder` hears the frames (through `tap`), a `Recording` is what it heard, `pcapng` writes and reads it for Wireshark.
"""

from punchlab.lab.capture.frame import CapturePoint, Frame, Recording
from punchlab.lab.capture.recorder import Recorder, clock_offset_ns

__all__ = ["CapturePoint", "Frame", "Recorder", "Recording", "clock_offset_ns"]
