"""The C11 extensions; everything else is in setup.cfg. Needs gcc, and nettle's headers."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
ABI = [("Py_LIMITED_API", "0x030b0000"), ("_GNU_SOURCE", "1")]
STATE = Path("statestore")


def sources(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in STATE.glob(pattern))


# libdal: what a network function in C links with, and what the Python binding is made of.
DAL = sources("seg*.c", "link*.c", "crypto.c", "keys.c", "wire.c", "client*.c", "dal*.c")
CRYPTO = ("nettle",)
NODE = sources("_node*.c", "node*.c")
STATE_HEADERS = sources("*.h")


class Build(build_ext):
    """As ever, but libdal is no Python module: it has the name that linkers look for."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.rpartition(".")[2] == "libdal":
            return f"{fullname.replace('.', '/')}.so"
        return str(super().get_ext_filename(fullname))


def extension(
    name: str,
    files: list[str],
    depends: list[str],
    include: list[str],
    libraries: tuple[str, ...] = (),
) -> Extension:
    return Extension(
        name,
        files,
        depends=depends,
        include_dirs=include,
        libraries=list(libraries),
        define_macros=ABI,
        py_limited_api=True,
        extra_compile_args=FLAGS,
    )


setup(
    ext_modules=[
        extension(
            "statestore._segment",
            [*sources("_segment*.c"), *DAL],
            STATE_HEADERS,
            ["statestore"],
            CRYPTO,
        ),
        extension("statestore.libdal", DAL, STATE_HEADERS, ["statestore"], CRYPTO),
        *(
            extension("statestore._node", [*NODE, *DAL], STATE_HEADERS, ["statestore"], CRYPTO)
            for _ in sources("_node.c")
        ),
        extension(
            "bgf.media._xdp",
            sorted(map(str, Path("bgf/media").glob("_xdp*.c"))),
            [
                "bgf/media/_xdp.h",
                "bgf/media/bpf/bgf.h",
                "bgf/media/bpf/bgf.lskel.h",
                "bgf/media/bpf/skel_internal.h",
            ],
            ["bgf/media", "bgf/media/bpf"],
        ),
        extension(
            "bgf.control._codec",
            sorted(map(str, Path("bgf/control").glob("_codec*.c"))),
            ["bgf/control/_codec.h", "bgf/control/_codec_sdp.h"],
            ["bgf/control"],
        ),
        extension(
            "bgf.lab._rtpload",
            ["bgf/lab/_rtpload.c"],
            [
                "bgf/lab/bpf/rtpbench.h",
                "bgf/lab/bpf/rtpbench.lskel.h",
                "bgf/lab/bpf/rtpload.h",
                "bgf/lab/bpf/rtpload.lskel.h",
            ],
            ["bgf/lab", "bgf/lab/bpf", "bgf/media/bpf"],
        ),
    ],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
