"""The C11 extensions; everything else is in setup.cfg. Needs gcc and nothing more."""

from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
ABI = [("Py_LIMITED_API", "0x030b0000"), ("_GNU_SOURCE", "1")]


def extension(name: str, sources: list[str], depends: list[str], include: list[str]) -> Extension:
    return Extension(
        name,
        sources,
        depends=depends,
        include_dirs=include,
        define_macros=ABI,
        py_limited_api=True,
        extra_compile_args=FLAGS,
    )


setup(
    ext_modules=[
        extension(
            "statestore._segment",
            [
                "statestore/_segment.c",
                "statestore/_segment_items.c",
                *sorted(str(path) for path in Path("statestore").glob("seg*.c")),
            ],
            ["statestore/segment.h", "statestore/seg_internal.h", "statestore/_segment.h"],
            ["statestore"],
        ),
        extension(
            "bgf.media._xdp",
            ["bgf/media/_xdp.c", "bgf/media/_xdp_maps.c"],
            [
                "bgf/media/_xdp.h",
                "bgf/media/bpf/bgf.h",
                "bgf/media/bpf/bgf.lskel.h",
                "bgf/media/bpf/skel_internal.h",
            ],
            ["bgf/media", "bgf/media/bpf"],
        ),
        extension(
            "bgf.lab._rtpload",
            ["bgf/lab/_rtpload.c"],
            ["bgf/lab/bpf/rtpload.h", "bgf/lab/bpf/rtpload.lskel.h"],
            ["bgf/lab", "bgf/lab/bpf", "bgf/media/bpf"],
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
