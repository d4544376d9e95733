"""Capture every SYN, FIN, RST and ICMP message of a trial at every interface on the path, with one clock.

`Recorder` captures frames (with `tap`), `Recording` contains them, `pcapng` writes and reads them for Wireshark.
"""

from punchlab.lab.capture.frame import CapturePoint, Frame, Recording
from punchlab.lab.capture.recorder import Recorder, clock_offset_ns

__all__ = ["CapturePoint", "Frame", "Recorder", "Recording", "clock_offset_ns"]
