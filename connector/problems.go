package connector

import "skylift/internal/problem"

// What can be wrong with a run besides its source and its staging.
var (
	UnknownSource = &problem.Kind{
		Code:  "source-unknown",
		Title: "this connector does not serve the run's source",
		Hint:  "Add the source to this connector's settings, or start a connector that has it",
		Retry: true,
	}
	NoDisks = &problem.Kind{
		Code:  "no-disks",
		Title: "the server has no disk that can be replicated",
		Hint:  "Look at the server's readiness report for the reason per disk, and at the disks that the job leaves out",
	}
	EnrolmentRefused = &problem.Kind{
		Code:  "enrolment-refused",
		Title: "the control plane did not take the activation code",
		Hint:  "Codes work once and expire: make a new one with 'skylift-controlplane activation-code' and enter it here",
	}
)
