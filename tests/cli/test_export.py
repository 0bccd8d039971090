"""`frugal-rt export`: it writes a verified plan, of one prior."""

from pathlib import Path

from frugal_rt import Plan

from ..commands import frugal, refuses


def test_export_writes_a_verified_plan(here, make_prior):
    result = frugal("export", "--weights", str(make_prior()), "-o", "mine.plan")
    assert result.exit_code == 0
    assert "largest relative error against torch" in result.output
    assert "Public domain" in result.output
    assert Plan.open("mine.plan").manifest["parity"]["gradient"] < 1e-4
    refuses("mine.plan exists; give another name with -o, or --force", "export", "--model", "celeba", "-o", "mine.plan")


def test_export_needs_one_prior(here):
    refuses("say which prior: --model celeba, or --weights DIR", "export")
    refuses("no prior 'imagenet'; choose one of photo, celeba", "export", "--model", "imagenet")
    refuses("nowhere is not a diffusers DDPM folder", "export", "--weights", "nowhere")
    refuses("there is no file nowhere.pt", "export", "--weights", "nowhere.pt", "--arch", "adm")
    refuses("--arch is for a .pt checkpoint", "export", "--model", "celeba", "--arch", "adm")
    Path("x.pt").write_bytes(b"anything")
    refuses("x.pt does not tell its architecture; for one of", "export", "--weights", "x.pt")
    refuses("must end in .plan", "export", "--model", "celeba", "-o", "x.onnx")
    refuses("the folder no does not exist", "export", "--model", "celeba", "-o", "no/x.plan")
