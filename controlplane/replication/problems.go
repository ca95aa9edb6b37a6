package replication

import "skylift/internal/problem"

// What can be wrong with a request about jobs and runs.
var (
	JobNotFound = &problem.Kind{
		Code:  "job-not-found",
		Title: "there is no such replication job",
		Hint:  "List the replication jobs and use one of their IDs.",
	}
	RunNotFound = &problem.Kind{
		Code:  "run-not-found",
		Title: "there is no such replication run",
		Hint:  "List the job's runs and use one of their IDs.",
	}
	JobExists = &problem.Kind{
		Code:  "job-exists",
		Title: "the server already has a replication job",
		Hint:  "Use or delete the server's job.",
	}
	ServerCannotBeReplicated = &problem.Kind{
		Code:  "job-server-unfit",
		Title: "the server cannot be replicated",
		Hint:  "Mend what stands in the way on the source, or name the disks to leave out; then import the catalog again.",
	}
	InvalidJob = &problem.Kind{
		Code:  "job-invalid",
		Title: "the replication job's settings are not valid",
		Hint:  "Correct the setting and try again.",
	}
	JobNotActive = &problem.Kind{
		Code:  "job-not-active",
		Title: "the replication job's state does not permit this",
		Hint:  "Look at the job's state and message; create a new job for the server where this one has ended.",
	}
	RunLimit = &problem.Kind{
		Code:  "run-limit",
		Title: "no further run can be started now",
		Hint:  "Wait until the job's active run has ended, or until the limit of on-demand runs allows another.",
	}
)

// What the holder of a lease can be told.
var (
	StaleLease = &problem.Kind{
		Code:  "run-lease-stale",
		Title: "stale lease: it has ended, or another holder has the run",
		Hint:  "Nothing is to be done: the run's present holder goes on from staging.",
	}
	// HolderSilent is why a lease ended that was not given back.
	HolderSilent = &problem.Kind{
		Code:  "run-holder-silent",
		Title: "whoever worked on the run was not heard of any more",
		Hint:  "See whether the connector (or, while an image is built, the control plane) runs and reaches its counterpart without long breaks, and what its log says of the end; the job's next run begins by itself.",
		Retry: true,
	}
	SnapshotRefused = &problem.Kind{
		Code:  "run-snapshot-refused",
		Title: "the run has another snapshot",
		Hint:  "The run ends; the next one takes a new snapshot.",
	}
	SealRefused = &problem.Kind{
		Code:  "run-seal-refused",
		Title: "the seal does not fit the run",
		Hint:  "The run ends; the next one starts from the last landed run.",
	}
	BaseChanged = &problem.Kind{
		Code:  "run-base-changed",
		Title: "the run was made against a base that is not the disk's last landed run",
		Hint:  "The run ends; the next one starts from the last landed run.",
	}
	BaseGone = &problem.Kind{
		Code:  "run-base-gone",
		Title: "the image of the run's base is gone",
		Hint:  "The run ends; the next one transfers the disks in full.",
	}
	BuildRefused = &problem.Kind{
		Code:  "run-build-refused",
		Title: "what was built is not what was sealed",
		Hint:  "The run ends and the job's next one begins anew. Staging or the builder is at fault: look at what 'skylift verify' says of the run, and report it with a support bundle.",
	}
)
