"""MLflow's UI in a real browser: what a new user sees behind the links that runback prints.

Needs Debian's packages `chromium` and `chromium-driver`, and `pip install 'runback[browser]'`. With
`SCREENSHOTS=FOLDER` the pictures of the documentation are written to FOLDER: `make browser`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import runback
from conftest import DATA, Server, Workspace, wait_until
from tracking_parts import mlflow_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "needs Debian's packages chromium and chromium-driver"
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1920,1080",
)  # fmt: skip
SECONDS = 90.0


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """Chromium with a new profile."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs runback[browser]")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def picture(browser: Chrome, name: str) -> None:
    """Saves a screenshot for the documentation, if that is asked for."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def text_of(browser: Chrome) -> str:
    return browser.find_element("tag name", "body").text


def wait_for(browser: Chrome, *texts: str) -> None:
    """Waits until the page shows all texts."""
    try:
        wait_until(lambda: all(text in text_of(browser) for text in texts), SECONDS)
    except AssertionError:
        shown = text_of(browser)
        missing = [text for text in texts if text not in shown]
        picture(browser, "failed")
        raise AssertionError(f"the page does not show {missing}, but: {shown}") from None


def curves(browser: Chrome) -> int:
    """The number of curves drawn in line charts."""
    return len(browser.find_elements("css selector", ".js-plotly-plot .scatterlayer .trace"))


def shown_params(browser: Chrome) -> list[str]:
    """The params in MLflow's comparison of runs that are not hidden as equal."""
    tables = browser.find_elements("css selector", ".mlflow-compare-run-table")
    texts = [[row.text for row in table.find_elements("css selector", "th")] for table in tables]
    (params,) = [names for names in texts if {"lr", "best_val_cost"} & {*names} == {"lr"}]
    return params


def trained(remote: Workspace, *options: str) -> tuple[str, str]:
    """A training through the command line; its run ID and the link that it printed."""
    shutil.copy(DATA / "non_linear.csv", remote.folder)
    quick = ("--data", "non_linear.csv", "--epochs", "60", "--checkpoint-every", "30")
    done = remote.runback("train", *quick, *options)
    assert done.returncode == 0, done.stderr
    links = re.findall(r"see it at (\S+)", done.stderr)
    assert len(set(links)) == 1, done.stderr
    return done.stdout.strip(), links[0]


def test_the_printed_link_shows_scores_and_curves(remote: Workspace, browser: Chrome) -> None:
    first, link = trained(remote, "--lr", "0.0001")
    second, _ = trained(remote, "--lr", "0.0002")
    browser.get(link)
    wait_for(browser, "Costs", "Scores", "val_cost", "best_val_cost", "test_rmse")
    names = [remote.client.get_run(run).info.run_name for run in (first, second)]
    wait_for(browser, *names)
    wait_until(lambda: curves(browser) >= 4, SECONDS)  # cost and val_cost of two runs
    assert (
        "GenAI" not in browser.current_url
        and "workflowType=machine_learning" in browser.current_url
    )
    picture(browser, "ui-charts")
    browser.get("about:blank")  # else the page is not loaded again
    browser.get(link.replace("&compareRunsMode=CHART", ""))
    wait_for(browser, "Description", "val_cost", "best_val_cost", *names)
    picture(browser, "ui-table")


def test_two_runs_compared_differ_in_one_param(
    remote: Workspace, server: Server, browser: Chrome
) -> None:
    runs = [trained(remote, "--lr", lr)[0] for lr in ("0.0001", "0.0002")]
    quoted = ",".join(f'"{run}"' for run in runs)
    browser.get(f'{server.uri}/#/compare-runs?runs=[{quoted}]&experiments=["0"]')
    wait_for(browser, "Parameters", "0.0001", "0.0002")
    picture(browser, "ui-compare")


def test_one_param_differs_from_a_run_of_mlflow_run(
    remote: Workspace, server: Server, browser: Chrome
) -> None:
    """With MLflow's switch that hides what is equal."""
    same = {"data": str(DATA / "non_linear.csv"), "epochs": "60", "checkpoint_every": "30"}
    given = [text for name, value in same.items() for text in ("-P", f"{name}={value}")]
    mine = mlflow_run(remote, *given, "-P", "lr=0.0002")
    options = [text for name, value in same.items() for text in (f"--{name}", value)]
    other = remote.runback("train", *options, "--lr", "0.0001").stdout.strip()
    browser.get(f'{server.uri}/#/compare-runs?runs=["{mine}","{other}"]&experiments=["0"]')
    wait_for(browser, "Parameters", "0.0001", "0.0002")
    switch = "button[aria-label='Parameters - Show diff only']"
    (button,) = browser.find_elements("css selector", switch)
    if button.get_attribute("aria-checked") != "true":
        button.click()
    wait_until(lambda: "lr" in shown_params(browser), SECONDS)
    assert shown_params(browser) == ["lr"]


def test_a_run_page_shows_description_and_dataset(remote: Workspace, browser: Chrome) -> None:
    run_id, link = trained(remote)
    server = link.partition("/#/")[0]
    browser.get(f"{server}/#/experiments/0/runs/{run_id}?workflowType=machine_learning")
    wait_for(
        browser, "Weights: epoch 60, lowest val_cost", "Datasets", "best_val_cost", "non_linear"
    )
    picture(browser, "ui-run")


def test_a_model_page_shows_its_alias(remote: Workspace, browser: Chrome) -> None:
    run_id, link = trained(remote)
    runback.promote(run_id)
    browser.get(f"{link.partition('/#/')[0]}/#/models/non_linear?workflowType=machine_learning")
    wait_for(browser, "non_linear", "Version 1", "@ champion")
    picture(browser, "ui-model")
