package connector

import (
	"errors"

	"skylift/internal/problem"
)

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
	AskUnknown = &problem.Kind{
		Code:  "ask-unknown",
		Title: "this connector does not know what the control plane asks for",
		Hint:  "Update the connector",
	}
	TrackingNotOffered = &problem.Kind{
		Code:  "tracking-not-offered",
		Title: "this kind of source has no change tracking to be switched on",
		Hint:  "Nothing is to be done: where the platform tracks changes, it does so by itself",
	}
	SnapshotUrgent = &problem.Kind{
		Code:  "snapshot-given-up",
		Title: "the run's snapshot was given up, because keeping it would have harmed the servers around it",
		Hint:  "Make room where the server's disks lie (the cause says where), or run when the server writes less; the job's next run takes a new snapshot",
	}
	NotEnrolled = &problem.Kind{
		Code:  "connector-not-enrolled",
		Title: "the connector is not enrolled, and no activation code was given",
		Hint:  "Make a code with 'skylift-controlplane activation-code' and give it to the connector in the file named by activation-code-file",
	}
	IdentityDamaged = &problem.Kind{
		Code:  "connector-identity-damaged",
		Title: "the file with the connector's identity cannot be used",
		Hint:  "Delete the file and enrol the connector again with a new activation code; runs under way go on from staging",
	}
	EnrolmentRefused = &problem.Kind{
		Code:  "enrolment-refused",
		Title: "the control plane did not take the activation code",
		Hint:  "Codes work once and expire: make a new one with 'skylift-controlplane activation-code' and enter it here",
	}
)

// errAskLate is why work on an ask was given up.
var errAskLate = errors.New("the time that the control plane gave for it is over")
