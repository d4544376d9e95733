"""Every SYN, FIN, RST and ICMP message of a trial, at every interface on the path, on one clock.

`recorder` hears the frames, `frame` is what it heard, `pcapng` writes them for Wireshark and reads them back. The first
and the last import scapy (0.2 s of CPU), `frame` does not.
"""
