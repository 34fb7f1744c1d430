"""What the doctor says of machines made by hand, and which torch runs on which driver."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedprefs.hardware import Accelerator, Diagnosis, Hardware, diagnose
from embedprefs.hardware.diagnosis import cuda_fits_driver
from embedprefs.hardware.graphics import visible

GIBIBYTE = 1024**3


@pytest.mark.parametrize(
    ("built", "driver", "driver_cuda", "fits"),
    [
        ("13.0", "580.65.06", "13.0", True),
        ("13.2", "580.65.06", "13.0", True),
        ("12.8", "580.65.06", "13.0", True),
        ("12.8", "535.104.05", "12.2", True),
        ("13.0", "570.10", "12.8", False),
        ("13.0", None, "12.8", False),
        ("12.1", "470.57.02", "11.4", False),
        ("11.8", "450.80.02", None, True),
        ("14.0", "600.1", "14.0", True),
        ("14.0", "580.1", "13.0", False),
    ],
)
def test_cuda_builds_and_drivers(built, driver, driver_cuda, fits):
    """A driver runs its own and older majors, and every minor of its major."""
    found, reason = cuda_fits_driver(built, driver, driver_cuda)
    assert found is fits
    assert reason


GPU = Accelerator("cuda", 0, "NVIDIA H200", 140 * GIBIBYTE, 130 * GIBIBYTE, (9, 0), "GPU-1")
MACHINE = Hardware(
    system="Linux",
    machine="x86_64",
    python_version="3.12.1",
    cpu_count=4,
    cpu_count_present=8,
    memory_total=16 * GIBIBYTE,
    memory_available=8 * GIBIBYTE,
    instruction_sets=frozenset({"avx2", "avx512_bf16"}),
    native_bfloat16=True,
    torch_version="2.13.0+cu130",
    torch_cuda_version="13.0",
    torch_varlen_attention=True,
    driver_version="580.65.06",
    driver_cuda_version="13.0",
    accelerators=(GPU,),
    all_accelerators=(GPU,),
    packages={"torch": "2.13.0", "transformers": "5.23.0", "sentence-transformers": "6.2.0", "peft": "0.21.2"},
)


def found(subject: str, **changes) -> Diagnosis:
    matches = [diagnosis for diagnosis in diagnose(replace(MACHINE, **changes)) if diagnosis.subject == subject]
    assert len(matches) == 1, [diagnosis.subject for diagnosis in diagnose(replace(MACHINE, **changes))]
    return matches[0]


class TestDiagnosis:
    """What the doctor says, and the command that changes it."""

    def test_a_healthy_machine(self):
        """Nothing is a problem where all is well."""
        assert [diagnosis for diagnosis in diagnose(MACHINE) if diagnosis.status == "problem"] == []

    def test_a_torch_without_cuda(self):
        """GPUs that torch cannot use are a problem, with the command for this driver."""
        diagnosis = found("CUDA", torch_version="2.13.0+cpu", torch_cuda_version=None)
        assert diagnosis.status == "problem"
        assert "uses none of them" in diagnosis.message
        assert diagnosis.command.endswith("/whl/cu130")
        older = found("CUDA", torch_cuda_version=None, driver_version="535.1", driver_cuda_version="12.2")
        assert older.command.endswith("/whl/cu126")

    def test_a_driver_that_is_too_old(self):
        """Both versions, the rule and a torch that fits are named."""
        diagnosis = found("CUDA", driver_version="550.54", driver_cuda_version="12.4")
        assert diagnosis.status == "problem"
        assert "CUDA 13.x needs driver 580 or newer" in diagnosis.message
        assert diagnosis.command.endswith("/whl/cu126")

    @pytest.mark.parametrize(
        ("stated", "status", "said"),
        [("0", "ok", "hides 0 of 1"), ("", "problem", "hides every GPU"), ("7", "problem", "hides every GPU")],
    )
    def test_cuda_visible_devices(self, stated, status, said):
        """Hiding every GPU is a problem, hiding some is not."""
        seen, _ = visible((GPU,), stated)
        diagnosis = found("CUDA_VISIBLE_DEVICES", cuda_visible_devices=stated, accelerators=seen)
        assert diagnosis.status == status
        assert said in diagnosis.message
        assert diagnosis.command == "unset CUDA_VISIBLE_DEVICES"

    def test_gpus_of_different_kinds(self):
        """CUDA and nvidia-smi then number them differently."""
        gpus = (GPU, replace(GPU, index=1, name="NVIDIA L4"))
        assert found("CUDA_DEVICE_ORDER", accelerators=gpus, all_accelerators=gpus).status == "problem"
        ordered = diagnose(replace(MACHINE, accelerators=gpus, all_accelerators=gpus, cuda_device_order="PCI_BUS_ID"))
        assert all(diagnosis.subject != "CUDA_DEVICE_ORDER" for diagnosis in ordered)

    def test_a_driver_that_does_not_answer(self):
        """What went wrong is said once, as it was found."""
        diagnosis = found("GPU", problems=("`nvidia-smi` did not answer within 10 s; GPUs cannot be listed.",))
        assert (diagnosis.status, "did not answer" in diagnosis.message) == ("problem", True)

    def test_memory_limited_by_a_control_group(self):
        """The limit is what counts, and it is said to."""
        diagnosis = found("memory", cgroup_memory_limit=2 * GIBIBYTE)
        assert "limits this process to 2.0 GiB" in diagnosis.message
        assert replace(MACHINE, cgroup_memory_limit=2 * GIBIBYTE).memory_limit == 2 * GIBIBYTE
        assert found("memory", memory_available=GIBIBYTE // 2).status == "problem"
        assert found("memory", memory_total=None).status == "problem"

    @pytest.mark.parametrize(
        ("packages", "subject", "status", "command"),
        [
            ({"transformers": "4.57.1"}, "transformers", "problem", 'pip install "transformers>=5.0,<6"'),
            ({"transformers": "6.0"}, "transformers", "problem", 'pip install "transformers>=5.0,<6"'),
            (
                {"sentence-transformers": "5.4"},
                "sentence-transformers",
                "problem",
                'pip install "sentence-transformers>=6.0,<7"',
            ),
            ({}, "sentence-transformers", "missing", 'pip install "embedprefs[sentence-transformers]"'),
            ({"openvino": "2026.4.1"}, "OpenVINO", "ok", None),
            ({"openvino": "2025.4"}, "OpenVINO", "problem", 'pip install "openvino>=2026.4,<2027"'),
            ({}, "OpenVINO", "missing", 'pip install "embedprefs[openvino]"'),
            ({"openvino": "2026.4.1"}, "int8 weights", "missing", 'pip install "embedprefs[int8]"'),
            ({"openvino": "2026.4.1", "nncf": "3.4.0"}, "int8 weights", "ok", None),
            ({}, "ONNX Runtime", "missing", "pip install onnxruntime-gpu"),
            (
                {"onnxruntime": "1.32"},
                "ONNX Runtime",
                "problem",
                "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
            ),
            ({"onnxruntime-gpu": "1.32"}, "ONNX Runtime", "ok", None),
            ({"flash-attn": "2.8"}, "flash-attn", "ok", None),
            ({}, "flash-attn", "missing", "pip install flash-attn --no-build-isolation"),
            ({}, "PEFT", "missing", 'pip install "embedprefs[peft]"'),
            ({"kernels": "0.10"}, "kernels", "ok", None),
        ],
    )
    def test_packages(self, packages, subject, status, command):
        """Versions against what is supported, and what adds what is missing."""
        diagnosis = found(subject, packages=packages)
        assert (diagnosis.status, diagnosis.command) == (status, command)

    def test_torch_itself(self):
        """Its own file counts before the distribution's version."""
        assert found("torch", torch_version="2.9.1").command == 'pip install "torch>=2.10"'
        assert found("torch", torch_version=None, packages={}).status == "missing"
        assert found("torch").status == "ok"

    def test_an_unsupported_python(self):
        """Too old and too new are both said."""
        assert found("Python", python_version="3.10.2").status == "problem"
        assert found("Python", python_version="3.14.0").status == "problem"
        assert found("Python", python_version="3.13.9").status == "ok"

    def test_a_processor_that_says_nothing(self):
        """Unknown instruction sets are a problem, since bfloat16 is then not used."""
        assert found("instruction sets", instruction_sets=frozenset()).status == "problem"
        assert "float32 is the faster" in found("bfloat16 on the processor", native_bfloat16=False).message
        without_amx = {"instruction_sets": frozenset({"avx512_bf16"}), "processor_vendor": "GenuineIntel"}
        assert "without AMX: float32 is the faster" in found("bfloat16 on the processor", **without_amx).message

    def test_a_machine_without_gpus(self):
        """No GPU is nothing wrong; torch built for CUDA still runs."""
        nothing = {"accelerators": (), "all_accelerators": (), "driver_version": None, "driver_cuda_version": None}
        assert found("GPU", **nothing).status == "missing"
        assert found("CUDA", **nothing).status == "ok"
        assert found("ONNX Runtime", **nothing).command == 'pip install "embedprefs[onnx]"'

    def test_other_builds_of_torch(self):
        """ROCm and oneAPI builds are named; their GPUs are only found when torch is loaded."""
        assert "state compute.device" in found("ROCm", torch_hip_version="7.0").message
        assert "state compute.device" in found("oneAPI", torch_xpu_version="2026").message

    def test_a_hand_made_machine(self):
        """A machine that states nothing is diagnosed all the same."""
        assert [diagnosis.subject for diagnosis in diagnose(Hardware())]
