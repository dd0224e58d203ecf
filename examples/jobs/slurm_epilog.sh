#!/bin/bash
# An Epilog for slurmd, which runs as root: removes what the job has left in its host's memory, also
# one that was killed. Living stores of the user's other jobs stay.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
fsexchange=/opt/fsexchange/bin/fsexchange # where it is installed on this host

as_user() { runuser -u "$SLURM_JOB_USER" -- "$fsexchange" "$@"; }

as_user gc --yes /dev/shm # stores whose owners were killed
# A store that `fsexchange init` made is kept for later steps, so the job's number must be its name.
store=/dev/shm/fsexchange-job-$SLURM_JOB_ID
[ ! -d "$store" ] || as_user clear "$store"
exit 0 # another status would take the host out of service
