"""Whether a pcap-filter expression is one: libpcap is asked, through the core that will run it."""


def fault(text: str) -> str | None:
    """What libpcap says against it; None if it is good, or where nobody can tell, the extension not being there."""
    try:
        from pylwaftr import _core
    except ImportError:
        return None
    return _core.check_filter(text)


def passes(text: str, frame: bytes) -> bool:
    """Whether a good filter lets the frame pass (from its Ethernet header on); True where nobody can tell."""
    try:
        from pylwaftr import _core
    except ImportError:
        return True
    return _core.filter_passes(text, frame)


def pcap_filter(text: str) -> str:
    """The text itself, or a ValueError that says what is wrong with it."""
    if said := fault(text):
        raise ValueError(f"{text!r} is no pcap filter ({said}); write what tcpdump would take, see pcap-filter(7)")
    return text
