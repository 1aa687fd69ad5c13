"""An Airflow DAG: `mmrec run` every night, then the page that people look at in the morning.

Copy it into the DAGs folder. `mmrec` must be on the workers' PATH; the Airflow Variable `mmrec_config` names
the configuration file, which holds the run folder too.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

LOCKED = 5  # another run is at work: this one has nothing to do
CONFIG = "{{ var.value.get('mmrec_config', 'run.toml') }}"

with DAG(
    dag_id="mmrec_nightly",
    description="Extract, train, evaluate, publish",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 0},  # mmrec tries again by itself what may pass: [run] retries
    tags=["recommender"],
) as dag:
    run = BashOperator(
        task_id="run",
        bash_command=f'exec mmrec --log-format json run -c "{CONFIG}"',
        skip_on_exit_code=LOCKED,
        execution_timeout=timedelta(hours=12),
        append_env=True,
    )
    report = BashOperator(
        task_id="report",
        bash_command=f'exec mmrec report -c "{CONFIG}"',
        append_env=True,
    )
    # A teardown is done after a night that failed, too, and does not make it look like a success.
    run >> report.as_teardown()
