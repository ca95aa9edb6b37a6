package replication

import (
	"time"

	"skylift/internal/problem"
)

// What can be wrong with a request about jobs or runs.
var (
	JobNotFound              = &problem.Kind{Code: "replication-job-not-found", Title: "there is no such replication job", Hint: "List the jobs."}
	RunNotFound              = &problem.Kind{Code: "replication-run-not-found", Title: "there is no such run", Hint: "List the runs."}
	JobExists                = &problem.Kind{Code: "replication-job-exists", Title: "the server has a replication job", Hint: "Use or delete that job."}
	ServerCannotBeReplicated = &problem.Kind{Code: "replication-server-unfit", Title: "the server cannot be replicated", Hint: "See its disks."}
	InvalidJob               = &problem.Kind{Code: "replication-job-invalid", Title: "the settings contradict each other", Hint: "Mend them."}
	JobNotActive             = &problem.Kind{Code: "replication-job-not-active", Title: "the job is not active", Hint: "Create a new job."}
	RunLimit                 = &problem.Kind{Code: "replication-run-limit", Title: "too many runs were asked for", Hint: "Wait."}
)

// NewJob is what a job is made from.
type NewJob struct {
	Server                             string
	Seed                               time.Time
	Frequency                          time.Duration
	RunOnce                            bool
	LicenseType, RoleName, Description string
	KeepImages                         int
	Encrypted                          bool
	KMSKeyID, Quiesce                  string
	KeepStaging                        bool
	SkipDisks                          []string
}

// JobChange holds what is to change of a job.
type JobChange struct {
	Frequency                          *time.Duration
	NextRun                            *time.Time
	LicenseType, RoleName, Description *string
	KeepImages                         *int
	Encrypted                          *bool
	KMSKeyID, Quiesce                  *string
	KeepStaging                        *bool
}
