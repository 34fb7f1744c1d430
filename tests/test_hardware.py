"""What is found out about a machine: recorded texts, control groups in a made-up root, and the machine at hand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import stat
import sys

import pytest

from embedprefs.hardware import Accelerator, Hardware, detect_hardware
from embedprefs.hardware.control_groups import (
    CgroupLimits,
    control_group_limits,
    controller_folders,
    parse_cpu_max,
    parse_memory_value,
)
from embedprefs.hardware.graphics import nvidia_driver, parse_cuda_version, parse_gpu_table, visible
from embedprefs.hardware.installed import installed_versions, parse_torch_version, torch_build
from embedprefs.hardware.processor import (
    bfloat16_pays,
    bfloat16_pays_here,
    has_native_bfloat16,
    parse_apple_features,
    parse_cpuinfo,
    parse_meminfo,
    parse_vm_stat,
    processors_allowed,
)

GIBIBYTE = 1024**3
MEBIBYTE = 1024**2

TWO_GPUS = """\
0, GPU-1a2b3c4d-0000-1111-2222-333344445555, NVIDIA H200, 143771, 143160, 580.65.06, 9.0
1, GPU-9f8e7d6c-0000-1111-2222-333344445555, NVIDIA L4, 23034, 22563, 580.65.06, 8.9
"""
HEAD = """\
Mon Nov 23 10:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
"""


class TestProcessor:
    """Names, flags and memory from what systems write."""

    def test_an_x86_processor(self):
        """Flags that one processor lacks do not count for the machine."""
        text = (
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_bf16\n\n"
            "processor\t: 1\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n"
        )
        assert parse_cpuinfo(text) == ("AMD EPYC", frozenset({"fpu", "avx2"}), "AuthenticAMD")

    def test_an_arm_processor(self):
        """ARM calls its flags Features."""
        name, flags, vendor = parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\nCPU architecture: 8\n")
        assert (name, flags, vendor) == ("", frozenset({"fp", "asimd", "bf16", "i8mm"}), "")
        assert has_native_bfloat16(flags)
        assert bfloat16_pays(flags, vendor)

    @pytest.mark.parametrize("text", ["", "no colon", ":\n:::"])
    def test_other_texts(self, text):
        """Nothing is made up."""
        assert parse_cpuinfo(text) == ("", frozenset(), "")

    @pytest.mark.parametrize(
        ("flags", "native"),
        [({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"bf16"}, True), ({"avx2", "avx512f"}, False), (set(), False)],
    )
    def test_native_bfloat16(self, flags, native):
        """AVX512-BF16, AMX and ARM's BF16 multiply bfloat16 in hardware."""
        assert has_native_bfloat16(flags) is native

    @pytest.mark.parametrize(
        ("flags", "vendor", "pays"),
        [
            ({"avx512_bf16"}, "AuthenticAMD", True),
            ({"avx512_bf16"}, "GenuineIntel", False),
            ({"avx512_bf16", "avx512_fp16"}, "GenuineIntel", False),
            ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", True),
            ({"avx512_bf16"}, "", True),
            ({"avx2"}, "AuthenticAMD", False),
        ],
    )
    def test_bfloat16_may_be_the_slower_format(self, flags, vendor, pays):
        """Intel's AVX512-BF16 takes longer than float32; AMX and AMD's do not."""
        assert bfloat16_pays(flags, vendor) is pays
        described = Hardware(
            instruction_sets=frozenset(flags), native_bfloat16=has_native_bfloat16(flags), processor_vendor=vendor
        )
        assert described.bfloat16_pays is pays
        assert described.to_json()["bfloat16_pays"] is pays

    def test_apples_features(self):
        """A feature that is 0 is not there."""
        text = "hw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.AdvSIMD: 1\nhw.optional.x: 1\n"
        assert parse_apple_features(text) == frozenset({"bf16", "asimd"})

    def test_meminfo(self):
        """Kilobytes become bytes."""
        text = (
            "MemTotal:       24684084 kB\nMemAvailable:   20000000 kB\nActive(anon):  5 kB\nHugePages_Total:       0\n"
        )
        assert parse_meminfo(text) == {
            "MemTotal": 24684084 * 1024,
            "MemAvailable": 20000000 * 1024,
            "Active(anon)": 5 * 1024,
        }

    def test_vm_stat(self):
        """Free, inactive and speculative pages can be taken."""
        text = (
            "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   100.\nPages active:  7.\n"
            "Pages inactive:   20.\nPages speculative:    3.\n"
        )
        assert parse_vm_stat(text) == 123 * 16384
        assert parse_vm_stat("") is None

    @pytest.mark.parametrize(("quota", "expected"), [(None, None), (0.5, 1), (1.5, 1), (10_000.0, None)])
    def test_processors_allowed(self, quota, expected):
        """A quota cuts what the affinity allows, and one processor is always there."""
        everything = processors_allowed(None)
        assert processors_allowed(quota) == (everything if expected is None else expected)
        if sys.platform == "linux":
            assert everything == len(os.sched_getaffinity(0))


def lay(root, files: dict[str, str]):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


class TestControlGroups:
    """Limits of containers, in both versions of the interface."""

    def test_membership(self):
        """Version 2 is the controller without a name."""
        text = "9:name=systemd:/\n4:memory:/box\n3:cpu,cpuacct:/box\n0::/user.slice\nbroken\n"
        assert controller_folders(text) == {
            "name=systemd": "/",
            "memory": "/box",
            "cpu": "/box",
            "cpuacct": "/box",
            "": "/user.slice",
        }

    @pytest.mark.parametrize(
        ("text", "expected"), [("max\n", None), ("1073741824\n", GIBIBYTE), ("9223372036854771712\n", None), ("", None)]
    )
    def test_memory_values(self, text, expected):
        """ "max" and the largest number both mean no limit."""
        assert parse_memory_value(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"), [("max 100000", None), ("150000 100000", 1.5), ("x", None), ("1 0", None)]
    )
    def test_quotas(self, text, expected):
        """A quota is processors' worth of time."""
        assert parse_cpu_max(text) == expected

    def test_version_2(self, tmp_path):
        """The tightest limit on the way up counts, and file cache can be dropped."""
        lay(
            tmp_path,
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/memory.max": f"{2 * GIBIBYTE}\n",
                "sys/fs/cgroup/pod/memory.current": f"{GIBIBYTE}\n",
                "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {MEBIBYTE}\n",
                "sys/fs/cgroup/pod/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/box/cpu.max": "250000 100000\n",
            },
        )
        assert control_group_limits(tmp_path) == CgroupLimits(2 * GIBIBYTE, GIBIBYTE - MEBIBYTE, 2.5)

    def test_version_1(self, tmp_path):
        """Memory and processors are separate trees; inside a container the group's own path is not visible."""
        lay(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIBIBYTE}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{MEBIBYTE}\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        )
        assert control_group_limits(tmp_path) == CgroupLimits(GIBIBYTE, MEBIBYTE, 0.5)

    def test_version_1_without_limits(self, tmp_path):
        """-1 and the largest number mean none."""
        lay(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        )
        assert control_group_limits(tmp_path) == CgroupLimits()

    def test_no_control_groups(self, tmp_path):
        """Other systems have none."""
        assert control_group_limits(tmp_path) == CgroupLimits()


class TestGraphics:
    """GPUs as nvidia-smi lists them."""

    def test_the_table(self):
        """Every column is read, memory in bytes."""
        accelerators, driver = parse_gpu_table(TWO_GPUS)
        assert driver == "580.65.06"
        assert accelerators[0] == Accelerator(
            "cuda",
            0,
            "NVIDIA H200",
            143771 * MEBIBYTE,
            143160 * MEBIBYTE,
            (9, 0),
            "GPU-1a2b3c4d-0000-1111-2222-333344445555",
        )
        assert [accelerator.device for accelerator in accelerators] == ["cuda:0", "cuda:1"]

    def test_an_older_driver(self):
        """Cells it does not know are None."""
        accelerators, driver = parse_gpu_table("0, GPU-1, Tesla K80, 11441, [N/A], 470.57.02\n")
        assert driver == "470.57.02"
        assert (accelerators[0].compute_capability, accelerators[0].memory_free) == (None, None)
        assert accelerators[0].native_bfloat16 is False

    @pytest.mark.parametrize("text", ["", "No devices were found\n", "a, b, c\n"])
    def test_no_gpus(self, text):
        """Other texts list no GPU."""
        assert parse_gpu_table(text) == ((), None)

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            (HEAD, "13.0"),
            ("CUDA Version : 12.4", "12.4"),
            ("CUDA UMD Version: 13.1", "13.1"),
            ("CUDA Version: N/A", None),
            ("", None),
        ],
    )
    def test_the_drivers_cuda_version(self, text, version):
        """The head of the plain output, in the wording of several drivers."""
        assert parse_cuda_version(text) == version

    @pytest.mark.parametrize(
        ("stated", "names", "said"),
        [
            (None, ["NVIDIA H200", "NVIDIA L4"], None),
            ("0", ["NVIDIA H200"], None),
            ("1,0", ["NVIDIA L4", "NVIDIA H200"], None),
            ("", [], None),
            ("-1", [], None),
            ("1,-1,0", ["NVIDIA L4"], None),
            ("GPU-9f", ["NVIDIA L4"], None),
            ("GPU-", [], '"GPU-" is no GPU'),
            ("5", [], '"5" is no GPU of this machine'),
            ("0,5,1", ["NVIDIA H200"], '"5" is no GPU of this machine'),
            ("cuda", [], '"cuda" is no GPU'),
            ("0,0", [], "GPU 0 is named twice"),
        ],
    )
    def test_cuda_visible_devices(self, stated, names, said):
        """What remains is numbered anew; a wrong entry hides itself and all after it."""
        accelerators, _ = parse_gpu_table(TWO_GPUS)
        seen, problem = visible(accelerators, stated)
        assert [accelerator.name for accelerator in seen] == names
        assert [accelerator.index for accelerator in seen] == list(range(len(names)))
        assert problem is None if said is None else said in problem

    def test_a_slice_of_a_gpu(self):
        """Of a MIG slice the whole GPU's memory is not claimed."""
        accelerators, _ = parse_gpu_table(TWO_GPUS)
        seen, problem = visible(accelerators, "MIG-11111111-2222-3333-4444-555555555555")
        assert (len(seen), seen[0].memory_total, problem) == (1, None, None)

    @pytest.fixture
    def program(self, tmp_path):
        """Write a program that answers as nvidia-smi does."""

        def write(script: str) -> str:
            path = tmp_path / "nvidia-smi"
            path.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            return str(path)

        return write

    @pytest.mark.skipif(sys.platform == "win32", reason="writes a program that only POSIX systems run")
    def test_a_driver_that_answers(self, program):
        """Both questions are asked, and the answers put together."""
        driver = nvidia_driver(program(f"print({TWO_GPUS!r} if len(sys.argv) > 1 else {HEAD!r})"))
        assert (driver.version, driver.cuda_version, len(driver.accelerators), driver.problems) == (
            "580.65.06",
            "13.0",
            2,
            (),
        )

    @pytest.mark.skipif(sys.platform == "win32", reason="writes a program that only POSIX systems run")
    def test_a_driver_that_does_not_know_the_compute_capability(self, program):
        """Drivers before 510 refuse the column; they are asked again without it."""
        script = (
            "asked = ' '.join(sys.argv)\n"
            "if 'compute_cap' in asked:\n"
            "    print('Field \"compute_cap\" is not a valid field to query.'); sys.exit(2)\n"
            "print('0, GPU-1, Tesla K80, 11441, 11000, 470.57.02' if 'query' in asked else 'CUDA Version: 11.4')"
        )
        driver = nvidia_driver(program(script))
        assert (driver.version, driver.cuda_version, driver.problems) == ("470.57.02", "11.4", ())
        assert driver.accelerators[0].name == "Tesla K80"

    @pytest.mark.skipif(sys.platform == "win32", reason="writes a program that only POSIX systems run")
    def test_a_broken_driver(self, program):
        """What nvidia-smi says is handed on as a problem, and there is no GPU."""
        driver = nvidia_driver(
            program("print('NVIDIA-SMI has failed because it could not talk to the driver.'); sys.exit(9)")
        )
        assert driver.accelerators == ()
        assert any("could not talk to the driver" in problem for problem in driver.problems)

    def test_no_driver(self, monkeypatch, tmp_path):
        """Without nvidia-smi there is no NVIDIA GPU, and nothing is wrong."""
        monkeypatch.setenv("PATH", str(tmp_path))
        assert nvidia_driver().accelerators == ()
        assert nvidia_driver().problems == ()

    @pytest.mark.parametrize(
        ("accelerator", "native"),
        [
            (Accelerator("cuda", 0, "A100", compute_capability=(8, 0)), True),
            (Accelerator("cuda", 0, "T4", compute_capability=(7, 5)), False),
            (Accelerator("mps", 0, "Apple GPU"), True),
        ],
    )
    def test_native_bfloat16(self, accelerator, native):
        """Compute capability 8.0 brought bfloat16."""
        assert accelerator.native_bfloat16 is native


class TestInstalled:
    """Versions without imports."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n",
                ("2.13.0+cpu", None, None),
            ),
            (
                "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n",
                ("2.13.0+cu130", "13.0", None),
            ),
            (
                '__version__ = "2.12.0+rocm7.0"\ncuda = None\nhip: Optional[str] = "7.0.1"\n',
                ("2.12.0+rocm7.0", None, "7.0.1"),
            ),
            ("", (None, None, None)),
        ],
    )
    def test_torchs_own_version_file(self, text, expected):
        """Version and build, in the forms torch has written them."""
        build = parse_torch_version(text)
        assert (build.version, build.cuda, build.hip) == expected

    def test_the_installed_torch(self):
        """The file says what torch itself says."""
        torch = pytest.importorskip("torch")
        build = torch_build()
        assert (build.version, build.cuda) == (str(torch.__version__), torch.version.cuda)
        assert build.varlen_attention == (importlib.util.find_spec("torch.nn.attention.varlen") is not None)

    def test_installed_versions(self):
        """Absent packages are left out."""
        assert installed_versions(("numpy", "no-such-package")) == {"numpy": importlib.metadata.version("numpy")}


class TestThisMachine:
    """detect_hardware on the machine that runs the tests."""

    def test_it_is_described(self):
        """Every value fits the others and what Python says."""
        import platform

        hardware = detect_hardware()
        assert hardware.system == platform.system()
        assert hardware.python_version == platform.python_version()
        assert 1 <= hardware.cpu_count <= (os.cpu_count() or 1)
        assert hardware.native_bfloat16 == has_native_bfloat16(hardware.instruction_sets)
        assert hardware.bfloat16_pays == bfloat16_pays_here()
        if hardware.memory_total is not None:
            assert 0 < hardware.memory_available <= hardware.memory_total
            assert hardware.memory_limit <= hardware.memory_total

    def test_cuda_visible_devices_is_noted(self, monkeypatch):
        """The variable is read when asked, and "" is told apart from unset."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert detect_hardware().cuda_visible_devices == ""
        assert all(accelerator.kind != "cuda" for accelerator in detect_hardware().accelerators)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert detect_hardware().cuda_visible_devices is None

    def test_it_can_be_written_as_json(self):
        """The description is made of JSON values."""
        import json

        assert json.loads(json.dumps(detect_hardware().to_json()))["cpu_count"] == detect_hardware().cpu_count

    def test_memory_agrees_with_psutil(self):
        """The machine's memory is what another library says."""
        psutil = pytest.importorskip("psutil")
        assert detect_hardware().memory_total == psutil.virtual_memory().total
