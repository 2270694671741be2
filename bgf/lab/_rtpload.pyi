FLOWS_MAX: int
HOPS_MAX: int
WATCHED_MAX: int

def load(streams: int, flows: int, /) -> dict[str, int]: ...
