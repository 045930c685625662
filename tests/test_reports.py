import pytest

from wheels.cli import main as cli
from wheels.errors import WheelsError
from wheels.reports import REPORTS, check_reports


def test_a_service_that_is_absent_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("wheels.reports.find_spec", lambda name: None if name == "wandb" else name)
    check_reports(())
    check_reports(("tensorboard", "trackio"))
    with pytest.raises(WheelsError, match=r"^report_to 'wandb' needs the package wandb, .* run `pip install wandb`"):
        check_reports(("tensorboard", "wandb"))


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--student", "s", "--teacher", "t", "--data", "d"],
        ["pretrain", "--data", "d"],
    ],
)
def test_it_is_refused_before_any_work_begins(argv, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("wheels.reports.find_spec", lambda name: None)
    assert cli.main([*argv, "--output", str(tmp_path / "out"), "--report-to", "trackio"]) == 2
    assert "report_to 'trackio' needs the package trackio" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_services_are_those_of_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(REPORTS) <= set(INTEGRATION_TO_CALLBACK)
