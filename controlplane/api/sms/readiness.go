package sms

// The actions and things of this file are Skylift's own.

// CheckServerRequest asks a connector to look at a server.
type CheckServerRequest struct {
	ServerID string `json:"serverId"`
}

// EnableChangeTrackingRequest asks a connector to switch change tracking of a
// server's disks on. A server that runs is stunned for as long as a snapshot
// is made and removed.
type EnableChangeTrackingRequest struct {
	ServerID string `json:"serverId"`
}

// CheckSourceRequest asks a connector to look at a source.
type CheckSourceRequest struct {
	SourceID string `json:"sourceId"`
}

// GetServerReadinessRequest asks what is known of a server's readiness.
type GetServerReadinessRequest struct {
	ServerID string `json:"serverId"`
}

// GetServerReadinessResponse has the latest report and how the asks stand;
// nil for what there was none of.
type GetServerReadinessResponse struct {
	ServerID       string           `json:"serverId"`
	Source         ConnectorSource  `json:"source"`
	Report         *ReadinessReport `json:"report,omitempty"`
	Check          *Ask             `json:"check,omitempty"`
	ChangeTracking *Ask             `json:"changeTracking,omitempty"`
}

// GetSourceReadinessRequest asks what is known of a source's readiness.
type GetSourceReadinessRequest struct {
	SourceID string `json:"sourceId"`
}

// GetSourceReadinessResponse is like that of a server.
type GetSourceReadinessResponse struct {
	Source ConnectorSource  `json:"source"`
	Report *ReadinessReport `json:"report,omitempty"`
	Check  *Ask             `json:"check,omitempty"`
}

// ReadinessReport is what a connector saw of a server or source.
type ReadinessReport struct {
	Ready       bool               `json:"ready"` // no finding blocks
	CheckedOn   Time               `json:"checkedOn"`
	ConnectorID string             `json:"connectorId"`
	Facts       []ReadinessFact    `json:"facts"`
	Findings    []ReadinessFinding `json:"findings"`
}

// ReadinessFact is one thing that was looked at. Subject is a disk or object;
// empty for the server or source itself.
type ReadinessFact struct {
	Subject string `json:"subject,omitempty"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// ReadinessFinding is one thing that is not as it should be.
type ReadinessFinding struct {
	Code    string `json:"code"`
	Blocks  bool   `json:"blocks"` // no run can start with it
	Subject string `json:"subject,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// The states of an Ask.
const (
	AskPending   = "PENDING" // for a connector to take it
	AskActive    = "ACTIVE"  // a connector is at work
	AskCompleted = "COMPLETED"
	AskFailed    = "FAILED"
)

// Ask is how something that a connector was asked for stands. StatusMessage
// is what it waits for, or why it failed.
type Ask struct {
	State         string `json:"state"`
	AskedOn       Time   `json:"askedOn"`
	AnsweredOn    Time   `json:"answeredOn,omitzero"`
	ConnectorID   string `json:"connectorId,omitempty"`
	StatusMessage string `json:"statusMessage,omitempty"`
	Code          string `json:"code,omitempty"`
	Hint          string `json:"hint,omitempty"`
}
