"""Three Ray nodes on this machine, and one is lost with its disk while both lanes run: the others bring the job home.

What the lost node had in flight, and the answers of its one open segment, may be asked again; nothing else, by the
server's count. See tests/chaos/nodes.py for what "lost" means here.
"""

import pytest

from tests.chaos.nodes import kill_one, lanes_on, processes_of, three_nodes
from tests.chaos.setting import setting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_lost_node_costs_at_most_what_it_had_in_flight_and_one_open_segment(no_ray, tmp_path):
    with setting(tmp_path / "job") as job, three_nodes() as cluster:
        kill_one(job, cluster, 0.3)
        outcome = job.outcome("node", "lost", 0.0)
    assert outcome.ok, (outcome, job.log)
    assert outcome.kills == 1 and outcome.rows_out == outcome.rows_in


def test_lanes_run_on_the_workers_and_the_governor_beside_the_driver(no_ray, tmp_path):
    """Whatever worker is lost, the dollars go on being counted."""
    with setting(tmp_path / "job", policy={"strong_share": 0.5}) as job, three_nodes() as cluster:
        job.env["RAY_ADDRESS"] = cluster.address
        driver = job.start()
        assert job.wait_for_share(0.2, driver)
        workers = list(cluster.worker_nodes)
        assert sum(map(lanes_on, workers)) == 2 and lanes_on(cluster.head_node) == 0
        on_head = {" ".join(process.cmdline()) for process in processes_of(cluster.head_node)}
        assert any("GovernorService" in line for line in on_head), on_head
        assert job.end(driver) == 0, job.last_words()
        assert job.outcome("node", "none lost", 0.0).ok
