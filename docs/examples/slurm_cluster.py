"""Workers in Slurm jobs, for the `--cluster` of `gdist extract` and `gdist sweep`: python slurm_cluster.py 8

Runs on a machine that the jobs can reach, such as the login node, until Ctrl-C; the jobs end with it. It needs
`pip install dask-jobqueue` next to gdist, and slurm.yaml, changed to what your Slurm has, as
~/.config/dask/jobqueue.yaml.
"""

import sys
import time

from dask_jobqueue import SLURMCluster

if __name__ == "__main__":
    with SLURMCluster(n_workers=0) as cluster:
        sys.stdout.write(f"{cluster.job_script()}\n")
        cluster.adapt(maximum_jobs=int(sys.argv[1]), minimum_jobs=1)  # as many as there is work for
        sys.stdout.write(f"gdist sweep … --cluster {cluster.scheduler_address}\n")
        sys.stdout.flush()
        while True:
            time.sleep(60)
