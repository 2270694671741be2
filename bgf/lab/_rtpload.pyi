FLOWS_MAX: int
HOPS_MAX: int
WATCHED_MAX: int
DELAYS: int

def load(streams: int, flows: int, /) -> dict[str, int]: ...
def load_bench() -> dict[str, int]: ...
