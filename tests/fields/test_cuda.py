"""The CUDA sweep equals the reference march: its own source, compiled for the CPU, and on a GPU where one answers.

`cuda_shim.hpp` makes C++ of sweep.cu: the threads of a block become threads, __syncthreads a barrier, and unwritten
shared memory is not a number. So indices, barriers, layouts and everything that `CudaMarch` does on the host are tested
without a GPU; a C++20 compiler is needed, and without one these tests are not selected.
"""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.fields import cuda
from bbdfield.fields.cuda import CudaMarch, unsupported
from bbdfield.fields.simulation import FieldSystem
from bbdfield.model.activations import get_activation
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Taps
from bbdfield.model.scalings.critical import CriticalOrder0, CriticalOrder1
from bbdfield.model.scalings.plain import GradientExpansion
from bbdfield.model.scalings.residual import ResidualOrder0, ResidualOrder1
from solvers.backends import get_backend
from solvers.grids import Grid
from solvers.padding import PADDINGS
from solvers.stencils import DifferenceOperator
from solvers.sweeps import SCHEMES, DepthMarch
from solvers.width import KernelOperator

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")
EQUATIONS = {
    "residual 0": lambda operator, activation: ResidualOrder0(operator, activation),
    "residual 1": lambda operator, activation: ResidualOrder1(operator, activation, 0.2),
    "critical 0": lambda operator, activation: CriticalOrder0(operator, 0.4),
    "critical 1": lambda operator, activation: CriticalOrder1(operator, 0.4, 0.2),
}


def _compiles() -> bool:
    if COMPILER is None:
        return False
    command = [COMPILER, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=b"#include <barrier>", capture_output=True).returncode == 0


def _gpu_answers() -> bool:
    try:
        get_backend("cupy")
    except InputError:
        return False
    return True


@dataclasses.dataclass
class Emulated:
    """The CPU in place of a GPU: sweep.cu through the shim.

    Memory is poisoned, so that what is read before it is written shows. `build_folder` keeps the compiled libraries.
    """

    build_folder: Path
    max_threads: int = 1
    multiprocessors: int = 2
    shared: int = 200_000
    shared_all: int = 200_000
    memory: int = 10**9
    spare: int = 10**9
    xp: Any = None

    def __post_init__(self) -> None:
        self.xp = self
        self.launches: list[str] = []

    # as an array namespace

    def empty(self, size: int, dtype: Any) -> np.ndarray:
        self.launches.append("allocation")
        return np.full(size, np.nan, dtype)

    asarray = staticmethod(np.asarray)
    ascontiguousarray = staticmethod(np.ascontiguousarray)

    # as a device

    def free(self) -> int:
        return self.spare

    def resident(self, kernel: Any, threads: int, shared: int) -> int:
        return 1

    def build(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        library = compiled(self.build_folder, constants["REAL"], constants["RS"], constants["RC"])
        return {name: (library, constants, name) for name in cuda.KERNELS}

    def launch(self, kernel: Any, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None:
        library, constants, name = kernel
        assert blocks >= 1 and 1 <= threads <= self.max_threads and shared <= self.shared
        for constant, number in constants.items():
            if constant in ("REAL", "RS", "RC", "MAX_THREADS"):
                continue
            numbers = np.atleast_1d(np.asarray(number, float))
            assert library.set(constant.encode(), numbers.ctypes.data_as(ctypes.c_void_p), numbers.size) == 0, constant
        values = [
            ctypes.c_void_p(a.ctypes.data)
            if isinstance(a, np.ndarray)
            else {np.int32: ctypes.c_int, np.int64: ctypes.c_longlong}[type(a)](a)
            for a in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.launches.append(name)
        assert library.run(name.encode(), blocks, threads, ctypes.c_size_t(shared), pointers) == 0, name


LIBRARIES: dict[tuple[Any, ...], ctypes.CDLL] = {}


def compiled(folder: Path, real: str, rs: int, rc: int) -> ctypes.CDLL:
    """sweep.cu for one number type and register tile."""
    key = real, rs, rc
    if key not in LIBRARIES:
        source, out = folder / f"{real}{rs}{rc}.cpp", folder / f"{real}{rs}{rc}.so"
        source.write_text(
            f'#define REAL {real}\n#define RS {rs}\n#define RC {rc}\n#include "{HERE / "cuda_shim.hpp"}"\n'
            f'#include "{cuda.SOURCE}"\nSHIM_DRIVER\n'
        )
        options = [
            "-std=c++20",
            "-O0",
            "-fno-strict-aliasing",
            "-ffp-contract=off",
            "-w",
            "-shared",
            "-fPIC",
            "-pthread",
        ]
        assert COMPILER is not None
        subprocess.run([COMPILER, *options, "-o", str(out), str(source)], check=True)
        LIBRARIES[key] = ctypes.CDLL(str(out))
    return LIBRARIES[key]


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem; `reach` is "kernel" (its own taps) or the order of differences."""

    equation: str = "residual 1"
    activation: str = "tanh"
    scheme: str = "rk4"
    padding: str = "reflect"
    tied: bool = True
    reach: str | int = "kernel"
    n_x: int = 3
    n_y: int = 7
    channels: int = 2
    samples: int = 5
    threads: int = 1
    checkpoint: int = 0
    precision: str = "float64"
    shared: int = 200_000

    def __str__(self) -> str:
        default = Case()
        return "-".join(
            f"{f.name}={getattr(self, f.name)}".replace(" ", "")
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(default, f.name)
        )


class Problem:
    """A case with its reference, and random numbers for it."""

    def __init__(self, case: Case) -> None:
        self.case, self.grid = case, Grid(case.n_x, case.n_y, 1.0, 1.3)
        self.scheme = SCHEMES[case.scheme]
        options: dict[str, Any] = {"tied": case.tied, "padding": case.padding}
        if case.reach == "kernel":
            self.operator: Any = KernelOperator(np, self.grid, 2.5 * self.grid.h_y, method="direct", **options)
            self.stencil = self.operator.stencil
        else:
            mixing = Taps(3).moments(0.1, int(case.reach))
            self.operator = DifferenceOperator(np, self.grid, order=int(case.reach), mixing=mixing, **options)
            self.stencil = self.operator.stencil
        self.equation = EQUATIONS[case.equation](self.operator, get_activation(case.activation))
        self.march = DepthMarch(self.equation, self.grid, self.scheme)
        rng = np.random.default_rng(7)
        nodes, shape = self.march.reconstruction.interpolation.shape[0], (case.n_y, case.channels, case.samples)
        width = () if case.tied else (case.n_y,)
        w = rng.standard_normal((nodes, *width, case.channels, self.stencil.shape[1], case.channels))
        self.nodes = (
            w / np.sqrt(2 * case.channels * w.shape[-2]),
            0.5 * rng.standard_normal((nodes, case.n_y, case.channels)),
        )
        self.z0, self.lam = rng.standard_normal(shape), rng.standard_normal(shape)

    def compiled(self, device: Any, precision: str = "float64") -> CudaMarch:
        case = self.case
        arguments = self.equation, self.grid, self.scheme, self.stencil, case.tied, case.padding, precision
        return CudaMarch(*arguments, checkpoint=case.checkpoint, device=device)

    def reference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ẑ at all sites, cotangents of ŵ, of b̂)."""
        sweep = self.march.forward(self.z0, self.nodes)
        bars = tuple(np.zeros_like(part) for part in self.nodes)

        def add(node: int, cotangents: tuple[np.ndarray, ...]) -> None:
            for bar, cotangent in zip(bars, cotangents, strict=True):
                bar[node] += cotangent

        self.march.adjoint(sweep, self.nodes, self.lam, add)
        return np.stack(sweep.z), *bars

    def check(self, march: CudaMarch, tolerance: float) -> None:
        xp, to_numpy = march.device.xp, getattr(march.device.xp, "asnumpy", np.asarray)
        z0, lam = xp.asarray(self.z0, march.dtype), xp.asarray(self.lam, march.dtype)
        nodes = tuple(xp.asarray(part, march.dtype) for part in self.nodes)
        z, *bars = self.reference()
        close(to_numpy(march.sites(z0, nodes)), z, tolerance)
        close(to_numpy(march.forward(z0, nodes, keep=False)), z[-1], tolerance)
        for _ in range(2):  # the second time in buffers that have been used
            close(to_numpy(march.forward(z0, nodes)), z[-1], tolerance)
            for found, expected in zip(march.adjoint(lam), bars, strict=True):
                close(to_numpy(found), expected, tolerance)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected)) <= tolerance * np.max(np.abs(expected))


def cases() -> list[Case]:
    """Each equation with every scheme, padding and kind of weights, each activation, and sizes that are awkward."""
    theories = [
        Case(equation, scheme=scheme, padding=padding, tied=tied)
        for equation in EQUATIONS
        for scheme in SCHEMES
        for padding in PADDINGS
        for tied in (True, False)
    ]
    activations = [
        Case(equation, activation, scheme="midpoint", tied=tied)
        for equation in ("residual 0", "residual 1")
        for activation in cuda.ACTIVATIONS
        for tied in (True, False)
    ]
    sizes = [
        Case(equation, padding=padding, tied=tied, reach=reach, channels=channels, samples=samples, n_y=n_y)
        for equation in ("residual 0", "critical 1")
        for padding, tied in (("reflect", True), ("circular", False))
        for reach, channels, samples, n_y in (
            (0, 1, 1, 1),
            (2, 3, 1, 2),
            (2, 1, 9, 6),
            ("kernel", 4, 9, 5),
            (1, 8, 17, 11),
        )
    ]
    return [*theories, *activations, *sizes]


def parallel_cases() -> list[Case]:
    """Blocks of several threads, fewer and more than there is work, with all that changes the order of phases."""
    threads = [
        Case(equation, tied=tied, threads=count, samples=9, channels=2)
        for equation in EQUATIONS
        for tied in (True, False)
        for count in (2, 7, 32)
    ]
    variants = [
        Case(equation, threads=5, samples=9, n_x=5, **changes)
        for equation in ("residual 0", "residual 1", "critical 1")
        for changes in (
            {"checkpoint": 2},
            {"checkpoint": 5, "scheme": "euler", "tied": False},
            {"checkpoint": 7, "scheme": "midpoint", "padding": "zeros"},
            {"shared": 2000, "activation": "gelu"},
            {"shared": 600, "tied": False, "checkpoint": 1},
            {"shared": 400, "checkpoint": 2},
        )
    ]
    return [*threads, *variants]


CPU = _compiles()


@pytest.mark.parametrize("case", cases() if CPU else [], ids=str)
def test_equals_the_reference(case, build_folder):
    Problem(case).check(Problem(case).compiled(Emulated(build_folder, case.threads, shared=case.shared)), 1e-13)


@pytest.mark.parametrize("case", parallel_cases() if CPU else [], ids=str)
def test_threads_of_a_block_wait_for_each_other(case, build_folder):
    Problem(case).check(Problem(case).compiled(Emulated(build_folder, case.threads, shared=case.shared)), 1e-13)


@pytest.mark.parametrize("equation", EQUATIONS if CPU else [])
def test_single_precision(equation, build_folder):
    problem = Problem(Case(equation, channels=4, samples=6))
    problem.check(problem.compiled(Emulated(build_folder), "float32"), 2e-5)


GRADIENT = ["prepare", "forward", "adjoint", "sum_shares", "mix", "sum_shares"]


@pytest.mark.parametrize("checkpoint", [0, 2] if CPU else [])
def test_second_gradient_allocates_nothing_and_has_the_same_bits(checkpoint, build_folder):
    device = Emulated(build_folder, max_threads=4)
    problem = Problem(Case(samples=9, checkpoint=checkpoint))
    march = problem.compiled(device)
    first = [march.forward(problem.z0, problem.nodes), *march.adjoint(problem.lam)]
    first = [part.copy() for part in first]
    device.launches.clear()
    second = [march.forward(problem.z0, problem.nodes), *march.adjoint(problem.lam)]
    assert device.launches == GRADIENT
    for before, after in zip(first, second, strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("tied", [True, False] if CPU else [])
def test_little_memory_for_shares_means_fewer_blocks(tied, build_folder):
    problem = Problem(Case(samples=9, tied=tied))
    problem.check(problem.compiled(Emulated(build_folder, memory=1)), 1e-13)


@pytest.mark.parametrize("samples", [(3, 9, 3)] if CPU else [])
def test_batches_of_several_sizes_in_turn(samples, build_folder):
    march = None
    for count in samples:
        problem = Problem(Case(samples=count))
        march = march or problem.compiled(Emulated(build_folder))
        problem.check(march, 1e-13)


def test_checkpoints_keep_less(build_folder):
    """Bytes kept: all stages of every cell, or ẑ at every second cell and the stages of two cells per block."""
    sizes = {}
    for checkpoint in (0, 2, 4):
        problem = Problem(Case(n_x=16, samples=64, checkpoint=checkpoint))
        march = problem.compiled(_Idle(build_folder))
        march.forward(problem.z0, problem.nodes)
        march.adjoint(problem.lam)
        sizes[checkpoint] = sum(march._buffers[name].size for name in ("tape", "checkpoints"))
    assert sizes[4] < sizes[2] < sizes[0] / 4


class _Idle(Emulated):
    """A device that computes nothing, for what happens on the host."""

    def build(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        return dict.fromkeys(cuda.KERNELS)

    def launch(self, kernel: Any, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None:
        pass


def test_too_little_memory_is_one_line_that_says_what_to_do(build_folder):
    problem = Problem(Case(n_x=16, samples=9))
    march = problem.compiled(_Idle(build_folder, spare=40_000))
    with pytest.raises(InputError, match=r"field\.checkpoint = 0: .* GB .*; use checkpoint = 4") as raised:
        march.forward(problem.z0, problem.nodes)
    assert "\n" not in str(raised.value)


def test_misuse_is_refused(build_folder):
    problem = Problem(Case())
    march = problem.compiled(_Idle(build_folder))
    with pytest.raises(ValueError, match="keep=True"):
        march.adjoint(problem.lam)
    march.forward(problem.z0, problem.nodes, keep=False)
    with pytest.raises(ValueError, match="keep=True"):
        march.adjoint(problem.lam)
    with pytest.raises(ValueError, match="of shapes"):
        march.forward(problem.z0, (problem.nodes[0][:-1], problem.nodes[1]))
    with pytest.raises(InputError, match="odd number"):
        CudaMarch(
            problem.equation, problem.grid, problem.scheme, np.eye(4), True, "zeros", "float64", device=march.device
        )
    wide = np.ones((17, 1))
    with pytest.raises(InputError, match="17 taps on 7 cells"):
        CudaMarch(problem.equation, problem.grid, problem.scheme, wide, True, "reflect", "float64", device=march.device)


def test_what_has_no_cuda_sweep(build_folder):
    operator, tanh = Problem(Case()).operator, get_activation("tanh")
    own = dataclasses.replace(tanh, name="own")
    assert unsupported(ResidualOrder1(operator, tanh, 0.1)) is None
    assert unsupported(CriticalOrder0(operator, 0.1)) is None
    assert "GradientExpansion" in (unsupported(GradientExpansion(operator, tanh, 0.1)) or "")
    assert "'own'" in (unsupported(ResidualOrder0(operator, own)) or "")
    with pytest.raises(InputError, match=r"no CUDA sweep for the activation 'own'; use backend"):
        problem = Problem(Case())
        problem.equation = ResidualOrder0(operator, own)
        problem.compiled(_Idle(build_folder))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 64])
@pytest.mark.parametrize(("n_y", "taps"), [(1, 1), (7, 5), (40, 11), (1024, 3), (20_000, 3)])
def test_plans_fit_a_large_gpu(n_y, taps, channels, tied, build_folder):
    device = _Idle(build_folder, max_threads=512, multiprocessors=132, shared=232_448)
    base = {"N_Y": n_y, "TAPS": taps, "TIED": int(tied), "SLOTS": 1, "ORDER": 1, "ACTIVATION": 0}
    for samples in (1, 32, 256, 4096):
        plan = cuda.make_plan(base, channels, samples, device, 8)
        group, rs, rc = (plan.constants[name] for name in ("SAMPLES", "RS", "RC"))
        assert plan.shared <= device.shared
        assert plan.threads % 32 == 0 and 32 <= plan.threads <= 512
        assert group % rs == 0 and channels % rc == 0 and rs * rc <= 8
        assert (plan.groups - 1) * group < samples <= plan.groups * group
        assert plan.groups >= min(samples, 99)  # nearly every multiprocessor has a block while there are samples
        assert plan.constants["WORK_SHARED"] == (n_y < 20_000 and n_y * channels <= 4096)


def test_constants_stand_in_front_of_the_source():
    text = cuda.prologue({"REAL": "double", "N_X": 3, "TABLEAU_B": (0.5, 1e-05)})
    assert text == "#define REAL double\n#define N_X 3\n#define TABLEAU_B {0.5, 1e-05}\n"
    assert cuda.SOURCE.read_text(encoding="ascii").count('extern "C" __global__') == len(cuda.KERNELS)


if _gpu_answers():

    @pytest.mark.gpu
    @pytest.mark.parametrize(
        "case", [*cases()[::9], *parallel_cases()[::6], Case(n_x=8, n_y=40, channels=8, samples=300)], ids=str
    )
    def test_gpu_equals_the_reference(case):
        problem = Problem(case)
        problem.check(problem.compiled(cuda.this_gpu()), 1e-12)
        problem.check(problem.compiled(cuda.this_gpu(), "float32"), 1e-4)

    @pytest.mark.gpu
    def test_gpu_repeats_its_bits():
        problem = Problem(Case(n_y=40, channels=8, samples=1000))
        xp, march = cuda.this_gpu().xp, problem.compiled(cuda.this_gpu())
        z0, lam, *nodes = (xp.asarray(part) for part in (problem.z0, problem.lam, *problem.nodes))
        runs = []
        for _ in range(5):
            march.forward(z0, nodes)
            runs.append([xp.asnumpy(part) for part in march.adjoint(lam)])
        for run in runs[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(runs[0], run, strict=True))

    @pytest.mark.gpu
    @pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
    def test_field_system_on_a_gpu(precision, tolerance, signals, problems):
        lattice = problems.lattice(padding="reflect")
        boundary = Boundary.draw(signals, lattice, problems.training())
        start = InitialFields(lattice, seed=5).on(Grid(8, 10), lattice)
        states = {}
        for backend, kind in (("numpy", "float64"), ("cupy", precision)):
            system = FieldSystem(start, boundary, order=1, scheme="rk4", backend=backend, precision=kind)
            losses = [system.step(k)["loss"] for k in range(5)]
            states[backend] = [np.array(losses), *system.state().values(), system.probe()]
        for found, expected in zip(states["cupy"], states["numpy"], strict=True):
            close(found, expected, tolerance)
